"""The commands of `amp eval`: one per benchmark."""
