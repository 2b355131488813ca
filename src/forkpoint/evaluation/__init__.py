"""Measure picks from solutions, step scores and labels, with intervals."""
