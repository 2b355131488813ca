"""Straight-line programs, written for comparison, that do what published research scripts do."""
