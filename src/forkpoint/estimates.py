"""Means over problems with their 95 % bootstrap intervals, and how well scores fit labels: bins and AUC.

Steps are put into B bins of equal width by their score: bin b holds scores in [b/B, (b+1)/B), the last bin
also 1.
    ECE    sum over bins of (steps in the bin / all steps) * |mean score - mean label|      (arXiv 1706.04599)
    Brier  mean over steps of (score - label)^2
    AUC    chance that a step of the upper kind scores above one of the lower kind; ties count half
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NUM_RESAMPLES = 4000
BLOCK_SIZE = 1 << 18
"""Number of values that are drawn at once."""
COUNT, SCORE, LABEL, SQUARED_ERROR = range(4)
"""The sums of every bin: number of steps, their scores, their labels, their squared errors."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its 95 % interval."""

    mean: float
    low: float
    high: float
    num_problems: int


def bootstrap(values_P: Sequence[float] | Floats, seed: int = 0) -> Estimate:
    """The mean of one value per problem, with the percentile bootstrap over problems.

    For a paired comparison pass the differences of the two methods, problem by problem.
    """
    values = np.asarray(values_P, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"a bootstrap needs one value per problem and at least one; shape {values.shape} was given"
        )
    rng = np.random.default_rng(seed)
    # some resamples at a time keep memory flat: [resamples, problems] would be gigabytes for large sets
    block = max(1, BLOCK_SIZE // len(values))
    sizes = [min(block, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, block)]
    means = np.concatenate(
        [values[rng.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def bootstrap_seeds(values_S_P: Floats, seed: int = 0) -> Estimate:
    """The mean over S seeds and P problems, with the percentile bootstrap over both.

    Each resample draws seeds and problems. With one seed this is `bootstrap`: the interval then says nothing
    about other seeds.
    """
    if values_S_P.ndim != 2 or values_S_P.size == 0:
        raise ValueError(
            f"values per seed and problem are needed, [S, P]; shape {values_S_P.shape} was given"
        )
    num_seeds, num_problems = values_S_P.shape
    if num_seeds == 1:
        return bootstrap(values_S_P[0], seed)
    rng = np.random.default_rng(seed)
    means = np.array(
        [
            values_S_P[rng.integers(0, num_seeds, num_seeds)][
                :, rng.integers(0, num_problems, num_problems)
            ].mean()
            for _ in range(NUM_RESAMPLES)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(values_S_P.mean()), float(low), float(high), num_problems)


def ratio(numerator: Floats, denominator: Floats, otherwise: float = 0.0) -> Floats:
    """Return the quotient, or `otherwise` for entries with denominator 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    quotient: Floats = np.full(denominator.shape, otherwise)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def bin_idxs(scores: Floats, num_bins: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the index of the bin of every score in [0, 1]."""
    return np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)


def bin_sums(scores: Floats, labels: Floats, num_bins: int) -> Floats:
    """Return the sums `COUNT`, `SCORE`, `LABEL` and `SQUARED_ERROR` of every bin: [B, 4].

    ValueError if a score is not in [0, 1].
    """
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError(
            f"calibration takes scores from 0 to 1; {scores.min():g} to {scores.max():g} were given"
        )
    sums_B_4 = np.zeros((num_bins, 4))
    np.add.at(
        sums_B_4,
        bin_idxs(scores, num_bins),
        np.stack([np.ones_like(scores), scores, labels, (scores - labels) ** 2], axis=1),
    )
    return sums_B_4


def ece(sums: Floats) -> Floats:
    """Return the expected calibration error of bin sums [.., B, 4]."""
    return ratio(np.abs(sums[..., SCORE] - sums[..., LABEL]).sum(axis=-1), sums[..., COUNT].sum(axis=-1))


def brier(sums: Floats) -> Floats:
    """Return the mean squared error of bin sums [.., B, 4]."""
    return ratio(sums[..., SQUARED_ERROR].sum(axis=-1), sums[..., COUNT].sum(axis=-1))


def auc(scores: Floats, is_upper: NDArray[np.bool_]) -> float | None:
    """Return the AUC of scores; None if all of them are of one kind."""
    upper, lower = scores[is_upper], np.sort(scores[~is_upper])
    if not len(upper) or not len(lower):
        return None
    below = np.searchsorted(lower, upper, "left") + np.searchsorted(lower, upper, "right")
    return float(below.mean() / (2 * len(lower)))
