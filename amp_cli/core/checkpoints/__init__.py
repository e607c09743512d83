"""Checkpoints in the original LLaVA layout: recognised, read, loaded as they are, and converted both ways."""
