"""Files and run folders: what survives a kill."""
