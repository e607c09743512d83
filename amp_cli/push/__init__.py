"""Adapters and merged models go to the Hugging Face hub: what goes along, with which card, and how."""
