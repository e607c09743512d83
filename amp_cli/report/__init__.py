"""Runs side by side: tables, differences, pages."""
