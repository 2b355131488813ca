"""Experiments made of the stages: the demo, the sweep over labels, RAFT, and the check of a lab policy."""
