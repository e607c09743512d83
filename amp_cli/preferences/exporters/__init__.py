"""Preference items in the layouts that other programs read."""
