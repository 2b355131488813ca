"""Have a policy solve problems, as trees or samples, grade the outcomes, and score their steps."""
