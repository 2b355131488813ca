"""EDU trees: how they grow, and how scores steer their growth."""
