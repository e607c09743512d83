"""Other people's preference formats, read item by item."""
