"""Models: named, found, loaded, talked to."""
