"""Straightforward programs, written for comparison, that do the same as published research scripts."""
