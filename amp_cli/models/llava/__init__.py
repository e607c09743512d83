"""The original LLaVA layout: read, converted, written."""
