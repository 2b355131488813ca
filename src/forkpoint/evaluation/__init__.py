"""Measure answers picked from solutions, step scores and labels, with intervals."""
