"""How data write down a dialogue: turns, images, system message, ids."""
