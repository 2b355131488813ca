"""The configuration of a RAFT run (arXiv 2412.11006)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from forkpoint.checks import check_at_least, check_choice, check_within
from forkpoint.records import Problem
from forkpoint.select import AGGREGATES, Aggregate
from forkpoint.training.config import SFTConfig

KeptBy: TypeAlias = Literal["prm", "outcome"]


@dataclass(frozen=True)
class RaftConfig:
    """How a policy learns from its own solutions. The defaults are those of arXiv 2412.11006."""

    num_iterations: int = 3
    """Number of iterations, T."""
    num_samples: int = 16
    """Completions per prompt; at most one of them is kept."""
    num_prompts: int = 0
    """Problems per iteration (20,000 in the paper), taken in their order and from the start again after
    the last one; 0 takes all."""
    temperature: float = 1.0
    """Temperature of the completions to choose from, and of the samples for evaluation."""
    top_p: float = 1.0
    """Nucleus of the same samples, in (0, 1]."""
    max_tokens: int = 512
    """Maximum number of tokens of a completion; one that reaches it without an end is never kept."""
    select: KeptBy = "prm"
    """Which completion of a prompt is kept: the one that the PRM scores best, right or wrong (prm), or any
    right one (outcome)."""
    aggregate: Aggregate = "min"
    """How step scores become one score of a completion: last, min, prod or mean."""
    num_eval_samples: int = 4
    """Samples per evaluation problem, in addition to the greedy solution."""
    seed: int = 0
    """Seed of samples, choices and fine-tuning."""
    sft: SFTConfig = field(default_factory=SFTConfig)

    def __post_init__(self) -> None:
        check_at_least(
            1,
            num_iterations=self.num_iterations,
            num_samples=self.num_samples,
            max_tokens=self.max_tokens,
            num_eval_samples=self.num_eval_samples,
        )
        check_at_least(0, num_prompts=self.num_prompts)
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be above 0, or all samples are equal; {self.temperature} was given"
            )
        check_within("(0, 1]", top_p=self.top_p)
        check_choice("select", self.select, get_args(KeptBy))
        check_choice("aggregate", self.aggregate, AGGREGATES)

    def learning_rate(self, iteration: int) -> float:
        """Peak rate of iteration t in 1 .. T: `sft.learning_rate` * (T - t + 1) / T (arXiv 2412.11006)."""
        return self.sft.learning_rate * (self.num_iterations - iteration + 1) / self.num_iterations

    def prompts(self, problems: Sequence[Problem], iteration: int) -> list[Problem]:
        """The problems of an iteration in 1 .. T."""
        num = self.num_prompts or len(problems)
        return [problems[((iteration - 1) * num + idx) % len(problems)] for idx in range(num)]
