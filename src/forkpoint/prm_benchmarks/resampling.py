"""Intervals of figures that are no plain means: F1, PRMScore, calibration error.

Such a figure is a function of sums over problems. Invariant: problems are resampled with all that belongs to them, and every
figure of one `Resamples` is computed on the same resamples, so the difference of two of its figures is a paired one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from forkpoint.estimates import BLOCK_SIZE, NUM_RESAMPLES, Floats

Statistic = Callable[[Floats], Floats]
"""A figure of sums [.., K]: one value per row [..]."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure and its 95 % percentile interval over problems."""

    value: float
    low: float
    high: float
    num_problems: int

    @classmethod
    def of(cls, value: float, draws_R: Floats, num_problems: int) -> Self:
        """`draws_R` holds the figure on every resample; nan where a resample has none."""
        low, high = np.nanquantile(draws_R, (0.025, 0.975))
        return cls(float(value), float(low), float(high), num_problems)


@dataclass(frozen=True, slots=True)
class Resamples:
    """Sums over all problems, and over as many problems drawn with replacement, many times."""

    sums_K: Floats
    draws_R_K: Floats
    num_problems: int

    @classmethod
    def of(cls, sums_P_K: Floats, seed: int = 0) -> Self:
        """Resample the rows, one per problem. ValueError where there is none."""
        num_problems = len(sums_P_K)
        if not num_problems:
            raise ValueError("an interval over problems needs at least one problem; there is none")
        rng = np.random.default_rng(seed)
        block = max(1, BLOCK_SIZE // num_problems)  # some resamples at a time keep memory flat
        sizes = [min(block, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, block)]
        even = np.full(num_problems, 1 / num_problems)
        draws = [rng.multinomial(num_problems, even, size) @ sums_P_K for size in sizes]
        return cls(sums_P_K.sum(axis=0), np.concatenate(draws), num_problems)

    def measured(self, statistic: Statistic) -> Measured:
        return Measured.of(float(statistic(self.sums_K)), statistic(self.draws_R_K), self.num_problems)


def ratio(numerator: Floats, denominator: Floats, otherwise: float = 0.0) -> Floats:
    """The quotient, and `otherwise` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    quotient: Floats = np.full(denominator.shape, otherwise)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def sums_by(problems: Sequence[Hashable], values_N_K: Floats) -> Floats:
    """Values of N solutions summed over those of one problem: [P, K], problems in the order in which they first come."""
    rows = {problem: idx for idx, problem in enumerate(dict.fromkeys(problems))}
    sums_P_K = np.zeros((len(rows), values_N_K.shape[1]))
    np.add.at(sums_P_K, [rows[problem] for problem in problems], values_N_K)
    return sums_P_K
