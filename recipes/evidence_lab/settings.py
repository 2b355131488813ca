"""Where the experiments take place, and how large they are; see docs/explanations/evidence.md.

Invariant: train, valid and test problems are of different splits of the lab, so none is in two of them.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_TOKENS = 160
LABEL_TAU = 0.5
"""Of the trees that are labelled, looked for on lab:valid before (LOG.md)."""
HT, TREE, VALID = "test-ht-0.7", "test-tree-1", "valid-ht-0.7"
"""The solutions that every PRM is judged on, and those that rates and thresholds are chosen on: SPLIT-KIND-TEMPERATURE_OR_TAU."""
OTHER_HT = ("test-ht-0.5", "test-ht-1")
"""Samples of other temperatures."""
DENSE = "test-tree-0.5"
"""Trees with more anchors, which have more leaves to grow."""


@dataclass(frozen=True)
class Setting:
    """A policy and a kind of problem. The PRMs of a setting are trained from its policy."""

    name: str
    policy: str
    family: str = "lab"
    level: str = "default"

    def problems(self, split: str, num: int) -> str:
        """The spec of some problems of a split."""
        return f"{self.family}:{split}?num={num}&seed=0&level={self.level}"

    @property
    def is_first(self) -> bool:
        """Whether every question is asked here, with everything that it needs; the other settings repeat some of it."""
        return self.name == "default"


@dataclass(frozen=True)
class Scale:
    """How much is done; the defaults are those of the protocol, smaller ones show that everything works."""

    num_train: int = 600
    """Problems with labels of every kind."""
    num_edu: int = 1200
    """Problems with trees: those, and as many more."""
    num_per_seed: int = 400
    """Problems that one PRM is trained on: another choice for every seed."""
    num_valid: int = 200
    num_test: int = 1000
    num_solutions: int = 4
    """Solutions per problem whose prefixes are rolled out."""
    num_rollouts: int = 16
    num_samples: int = 64
    """HT samples per test problem at T = 0.7."""
    num_other_samples: int = 16
    """HT samples per test problem at other temperatures, and in the settings beside the first."""
    num_leaves: int = 64
    """Leaves of test trees."""
    num_label_leaves: int = 16
    num_truths: int = 240
    """Prefixes whose true value is estimated."""
    num_truth_rollouts: int = 256
    num_train_steps: int = 300
    num_search_problems: int = 250
    """Problems per seed where every seed samples its own solutions (steered trees); another block of the test problems for each."""
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
