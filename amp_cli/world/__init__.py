"""The embedded picture world: drawn scenes whose whole truth is known, and a tiny model that has seen only them."""
