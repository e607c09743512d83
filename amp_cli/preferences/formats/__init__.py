"""Other projects' preference files, in and out."""
