"""The parts of `recipes/evidence.py`: settings, what all arms share, the PRMs, the questions."""
