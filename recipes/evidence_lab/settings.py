"""The settings of the experiments and their scale; see docs/explanations/evidence.md.

Invariant: train, valid and test problems come from different splits of the lab, so no problem is in two of
them.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_TOKENS = 160
LABEL_TAU = 0.5
"""The threshold of the labelled trees, chosen beforehand on lab:valid (LOG.md)."""
HT, TREE, VALID = "test-ht-0.7", "test-tree-1", "valid-ht-0.7"
"""The solutions for judging PRMs, and for choosing rates and thresholds: SPLIT-KIND-TEMPERATURE_OR_TAU."""
OTHER_HT = ("test-ht-0.5", "test-ht-1")
"""Samples at other temperatures."""
DENSE = "test-tree-0.5"
"""Trees with more anchors, which can grow more leaves."""


@dataclass(frozen=True)
class Setting:
    """A policy and a kind of problem. The PRMs of a setting are trained from its policy."""

    name: str
    policy: str
    family: str = "lab"
    level: str = "default"

    def problems(self, split: str, num: int) -> str:
        """Return the spec of some problems of a split."""
        return f"{self.family}:{split}?num={num}&seed=0&level={self.level}"

    @property
    def is_first(self) -> bool:
        """Whether every question is asked in this setting; the other settings repeat some of them."""
        return self.name == "default"


@dataclass(frozen=True)
class Scale:
    """The sizes of the experiments.

    The defaults are those of the protocol, smaller ones test that all works.
    """

    num_train: int = 600
    """Number of problems with labels of every kind."""
    num_edu: int = 1200
    """Number of problems with trees: those, and as many more."""
    num_per_seed: int = 400
    """Number of training problems of one PRM, chosen differently for every seed."""
    num_valid: int = 200
    num_test: int = 1000
    num_solutions: int = 4
    """Number of solutions per problem whose prefixes are rolled out."""
    num_rollouts: int = 16
    num_samples: int = 64
    """Number of HT samples per test problem at T = 0.7."""
    num_other_samples: int = 16
    """The same at other temperatures, and in all settings but the first."""
    num_leaves: int = 64
    """Number of leaves of test trees."""
    num_label_leaves: int = 16
    num_truths: int = 240
    """Number of prefixes whose true value is estimated."""
    num_truth_rollouts: int = 256
    num_train_steps: int = 300
    num_search_problems: int = 250
    """Number of problems per seed for steered trees; every seed has a block of test problems of its own."""
    num_raft_prompts: int = 200


TINY = Scale(
    num_train=6,
    num_edu=8,
    num_per_seed=4,
    num_valid=4,
    num_test=6,
    num_solutions=2,
    num_rollouts=4,
    num_samples=8,
    num_other_samples=4,
    num_leaves=8,
    num_label_leaves=4,
    num_truths=4,
    num_truth_rollouts=12,
    num_train_steps=3,
    num_search_problems=3,
    num_raft_prompts=4,
)
