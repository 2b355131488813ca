"""A mean over problems and its 95 % bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NUM_RESAMPLES = 4000
BLOCK_SIZE = 1 << 18
"""Number of values that are drawn at once."""


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
