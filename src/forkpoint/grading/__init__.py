"""Decide whether an answer is right: graders, the answer readers they share, and killable processes."""
