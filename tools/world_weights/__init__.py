"""Makes the weights of the tiny model that `amp` ships."""
