"""Addresses that programs may import from, whatever moves inside."""
