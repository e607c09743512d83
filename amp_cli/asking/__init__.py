"""Asking: a local model or an endpoint answers, a judge judges."""
