"""The parts of `recipes/evidence.py`: settings, material shared by all arms, PRMs, and questions."""
