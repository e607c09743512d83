"""What may be wrong with preference data."""
