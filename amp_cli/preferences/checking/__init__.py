"""Looks preference data over before it is trained on."""
