"""Problems that a PRM is not trained on, and how well its scores fit their labels.

    loss           cross-entropy of score and label, mean over steps, in nats
    constant_loss  the same of one score for all steps: the mean label of the steps that are trained on
    gain           constant_loss - loss; the PRM beats the constant if this is above 0
Its 95 % interval is the percentile bootstrap over problems. The means are ratios (sums over steps divided by
the number of steps), and problems differ in their number of steps, so the ratio is linearised: the value of a
problem is gain + (sum of its gains - gain * its steps) / (mean number of steps).
Every step counts once here, whatever `label_weighting` says.
Invariant: all solutions of a question are on one side, and the choice depends on the seed and the questions
alone, not on their order. Importing this file does not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forkpoint.content_key import content_key
from forkpoint.errors import ForkpointError
from forkpoint.estimates import COUNT, LABEL, SCORE, Floats, auc, bin_sums, bootstrap, ece

NUM_BINS = 10
UPPER_LABEL = 0.5
"""Steps with at least this label are those that should score above the others."""
LEAST_SHARE = 1e-6
"""The constant is at least this far from 0 and 1, where its loss could be infinite."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The held-out steps whose scores lie in one tenth of [0, 1]."""

    low: float
    high: float
    num_steps: int
    mean_score: float
    mean_label: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well the scores of a PRM fit the labels of the held-out problems."""

    num_problems: int
    num_steps: int
    loss: float
    """Mean cross-entropy of score and label, in nats per step."""
    constant: float
    """Mean label of the steps that are trained on."""
    constant_loss: float
    """Mean cross-entropy if every step had the score `constant`."""
    gain: float
    """`constant_loss` minus `loss`."""
    gain_low: float
    gain_high: float
    auc: float | None
    """Chance that a step with a label of at least 0.5 scores above one with a lower label; None if all
    labels are on one side."""
    ece: float
    """Expected calibration error over ten bins of equal width."""
    mean_score: float
    mean_label: float
    bins: tuple[Bin, ...]
    """Bins with at least one step, from low to high scores."""

    @property
    def beats_constant(self) -> bool:
        """Whether the loss is below that of the constant; the interval may still include 0."""
        return self.gain > 0

    @property
    def constant_is_perfect(self) -> bool:
        """Whether all labels, also those that are trained on, are 0 or all are 1: no PRM can beat that."""
        return self.constant_loss < 2 * LEAST_SHARE

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` made, after a journey through JSON."""
        return cls(**{**row, "bins": tuple(Bin(**bin_row) for bin_row in row["bins"])})


@dataclass(frozen=True, slots=True)
class ScoredSteps:
    """K steps with what the PRM said of them."""

    problem_idxs_K: NDArray[np.int64]
    labels_K: Floats
    scores_K: Floats
    losses_K: Floats
    """Cross-entropy of each score and label, in nats."""


def held_out_questions(questions: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Return the questions to hold out: the given share of the distinct ones, at least one.

    Empty if the share is 0 or if there are fewer than two questions.
    """
    distinct = frozenset(questions)
    num = num_held_out(len(distinct), share)
    return frozenset(sorted(distinct, key=lambda question: (content_key([seed, question]), question))[:num])


def num_held_out(num_problems: int, share: float) -> int:
    """Return how many of so many problems are held out."""
    if share == 0 or num_problems < 2:
        return 0
    return min(num_problems - 1, max(1, round(share * num_problems)))


def measured(steps: ScoredSteps, constant: float) -> HeldOut:
    """Return the figures of scored steps. ForkpointError if a score is not a number."""
    if not (np.isfinite(steps.scores_K).all() and np.isfinite(steps.losses_K).all()):
        raise ForkpointError(
            "the training has diverged: scores of held-out steps are not numbers; start again in another "
            "directory, with a smaller --learning-rate or a longer --warmup-share"
        )
    score = min(max(constant, LEAST_SHARE), 1 - LEAST_SHARE)
    constant_losses_K = -(steps.labels_K * np.log(score) + (1 - steps.labels_K) * np.log(1 - score))
    gains_K = constant_losses_K - steps.losses_K
    gain = float(gains_K.mean())
    counts_P = np.bincount(steps.problem_idxs_K).astype(np.float64)
    sums_P = np.bincount(steps.problem_idxs_K, weights=gains_K)
    interval = bootstrap(gain + (sums_P - gain * counts_P)[counts_P > 0] / counts_P[counts_P > 0].mean())
    sums_B_4 = bin_sums(steps.scores_K, steps.labels_K, NUM_BINS)
    return HeldOut(
        num_problems=int((counts_P > 0).sum()),
        num_steps=len(steps.labels_K),
        loss=float(steps.losses_K.mean()),
        constant=constant,
        constant_loss=float(constant_losses_K.mean()),
        gain=gain,
        gain_low=interval.low,
        gain_high=interval.high,
        auc=auc(steps.scores_K, steps.labels_K >= UPPER_LABEL),
        ece=float(ece(sums_B_4)),
        mean_score=float(steps.scores_K.mean()),
        mean_label=float(steps.labels_K.mean()),
        bins=tuple(
            Bin(
                low=idx / NUM_BINS,
                high=(idx + 1) / NUM_BINS,
                num_steps=int(sums[COUNT]),
                mean_score=float(sums[SCORE] / sums[COUNT]),
                mean_label=float(sums[LABEL] / sums[COUNT]),
            )
            for idx, sums in enumerate(sums_B_4)
            if sums[COUNT]
        ),
    )
