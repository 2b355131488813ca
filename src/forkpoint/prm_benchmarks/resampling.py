"""Intervals of figures that are not plain means: F1, PRMScore, calibration error.

Each of them is a function of sums over problems. Invariant: a problem is resampled with all its solutions and
steps, and all figures of one `Resamples` are computed on the same resamples, so a difference of two of them
is a paired difference.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from forkpoint.estimates import BLOCK_SIZE, NUM_RESAMPLES, Floats

Statistic = Callable[[Floats], Floats]
"""A function from sums [.., K] to a figure [..]."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure and its 95 % percentile interval over problems."""

    value: float
    low: float
    high: float
    num_problems: int

    @classmethod
    def of(cls, value: float, draws_R: Floats, num_problems: int) -> Self:
        """`draws_R` holds the figure on every resample; nan for a resample on which it is undefined.

        Resamples on which the figure is undefined are left out; without any other, the interval is nan.
        """
        defined = draws_R[~np.isnan(draws_R)]
        low, high = np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan)
        return cls(float(value), float(low), float(high), num_problems)

    def to_row(self) -> dict[str, Any]:
        """The entry of results.json, with null for a figure that is undefined."""
        return {
            name: None if isinstance(number, float) and np.isnan(number) else number
            for name, number in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Resamples:
    """Sums over all P problems, and over many draws of P problems with replacement."""

    sums_K: Floats
    draws_R_K: Floats
    num_problems: int

    @classmethod
    def of(cls, sums_P_K: Floats, seed: int = 0) -> Self:
        """Resample the rows, one per problem. ValueError if there are none."""
        num_problems = len(sums_P_K)
        if not num_problems:
            raise ValueError("an interval over problems needs at least one problem; none was given")
        rng = np.random.default_rng(seed)
        block = max(1, BLOCK_SIZE // num_problems)  # a block of resamples at a time bounds memory
        sizes = [min(block, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, block)]
        even = np.full(num_problems, 1 / num_problems)
        draws = [rng.multinomial(num_problems, even, size) @ sums_P_K for size in sizes]
        return cls(sums_P_K.sum(axis=0), np.concatenate(draws), num_problems)

    def measured(self, statistic: Statistic) -> Measured:
        """Return a figure with its interval."""
        return Measured.of(float(statistic(self.sums_K)), statistic(self.draws_R_K), self.num_problems)


def sums_by(problems: Sequence[Hashable], values_N_K: Floats) -> Floats:
    """Sum the values of N solutions by problem: [P, K], problems in the order of their first solutions."""
    rows = {problem: idx for idx, problem in enumerate(dict.fromkeys(problems))}
    sums_P_K = np.zeros((len(rows), values_N_K.shape[1]))
    np.add.at(sums_P_K, [rows[problem] for problem in problems], values_N_K)
    return sums_P_K
