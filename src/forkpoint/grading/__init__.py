"""Whether an answer is right: graders, the readers of answers that they share, and the processes that keep them killable."""
