"""Train a PRM on step labels, and fine-tune a policy on completions."""
