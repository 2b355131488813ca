"""Step labels: where outcomes come from (a plan), and the number that sums them up (a value)."""
