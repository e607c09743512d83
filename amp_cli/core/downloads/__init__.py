"""Fetches models and benchmark data, resumable and verified, online or from what is already on this disk."""
