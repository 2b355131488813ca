"""The works of the engine benchmark: trees or samples of the same lab problems."""

from __future__ import annotations

from forkpoint.policies import load_policy
from forkpoint.problems import load_problems
from forkpoint.records import Policy
from forkpoint.solutions.sample import RolloutConfig, sample
from forkpoint.trees.grow import TreeConfig, grow_trees

NAMES = ("trees", "samples")


class Works:
    """Two works for one policy; prompts are made with the lab policy's tokenizer."""

    def __init__(self, policy: Policy, num_problems: int, num_leaves: int, tau: float) -> None:
        lab = load_policy("lab", device="cpu")
        self._policy, self._num_leaves, self._tau = policy, num_leaves, tau
        self._prompts = [
            lab.encode_question(problem.question)
            for problem in load_problems(f"lab:test?num={num_problems}&seed=7")
        ]

    def run(self, name: str) -> int:
        """Do a work and return the number of tokens that it sampled."""
        if name == "trees":
            config = TreeConfig(num_leaves=self._num_leaves, tau=self._tau, max_tokens=160)
            return sum(cost.sampled_tokens for _, cost in grow_trees(self._policy, self._prompts, config))
        samples = sample(
            self._policy, self._prompts, RolloutConfig(self._num_leaves, temperature=0.7, max_tokens=160)
        )
        return sum(cost.sampled_tokens for _, cost in samples)
