"""Fetches models and benchmarks."""
