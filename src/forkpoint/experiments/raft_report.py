"""The report of a RAFT run: the base and every iteration, with intervals over the evaluation problems.

Invariant: an entry of raft.json has the same keys for every iteration.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from forkpoint.estimates import Estimate
from forkpoint.experiments.raft_keep import Kept
from forkpoint.training.config import SFTReport


@dataclass(frozen=True, slots=True)
class IterationReport:
    """The results of an iteration. Iteration 0 is the base, which has no training and no gain."""

    iteration: int
    policy: str
    """Directory of the policy, relative to the run's; for iteration 0, the base as it was given."""
    kept: Kept | None
    learning_rate: float | None
    training: SFTReport | None
    greedy: Estimate
    """Accuracy of the greedy solution."""
    sampled: Estimate
    """Accuracy of one sample."""
    greedy_gain: Estimate | None
    """Gain of `greedy` over the base, paired problem by problem."""
    sampled_gain: Estimate | None
    """Gain of `sampled` over the base, paired problem by problem."""

    def to_row(self) -> dict[str, Any]:
        """The entry of raft.json, with the same keys for every iteration."""
        kept = asdict(self.kept) if self.kept else dict.fromkeys(Kept.__dataclass_fields__)
        training = asdict(self.training) if self.training else dict.fromkeys(SFTReport.__dataclass_fields__)
        gains = {"greedy": self.greedy_gain, "sampled": self.sampled_gain}
        return {
            "iteration": self.iteration,
            "policy": self.policy,
            **kept,
            "learning_rate": self.learning_rate,
            "num_trained_tokens": training["num_tokens"],
            "first_loss": training["first_loss"],
            "loss": training["loss"],
            "greedy": _estimate_row(self.greedy, "accuracy"),
            "sampled": _estimate_row(self.sampled, "accuracy"),
            "gain_over_base": {
                name: _estimate_row(gain, "difference") for name, gain in gains.items() if gain
            }
            or None,
        }


@dataclass(frozen=True, slots=True)
class RaftReport:
    """The base and every iteration, in order."""

    iterations: tuple[IterationReport, ...]


def _estimate_row(estimate: Estimate, name: str) -> dict[str, float]:
    return {
        name: estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "num_problems": estimate.num_problems,
    }
