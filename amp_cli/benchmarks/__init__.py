"""Benchmarks: ask a model, score what it answered, set runs side by side."""
