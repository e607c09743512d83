"""Rows of tokens: laid out, attended, scored."""
