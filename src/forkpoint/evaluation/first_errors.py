"""First wrong steps as a threshold on step scores finds them (ProcessBench, arXiv 2412.06559).

A solution is predicted to go wrong at the first step that scores below the threshold, or nowhere (-1).
Nothing here samples, scores or reads files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forkpoint.estimates import Floats, ratio

NO_EDGE_THRESHOLD = 0.5
"""The threshold if all thresholds predict the same solutions correctly."""


@dataclass(frozen=True, slots=True)
class FirstError:
    """How well step scores find the first wrong step, as ProcessBench measures it (arXiv 2412.06559)."""

    f1: float
    acc_error: float
    acc_correct: float
    threshold: float
    num_solutions: int


def predict_first_error(step_scores: Sequence[float], threshold: float) -> int:
    """The first step whose score is below the threshold, or -1."""
    return next((idx for idx, score in enumerate(step_scores) if score < threshold), -1)


def first_error(
    step_scores: Sequence[Sequence[float]], first_wrong: Sequence[int], threshold: float
) -> FirstError:
    """Accuracy of the first wrong steps that a threshold predicts.

    acc_error is the share of exact matches among solutions with a wrong step, acc_correct the share of -1
    among those without one; F1 is their harmonic mean, 0 if both are 0 or one kind of solutions is missing.
    """
    if len(step_scores) != len(first_wrong) or not first_wrong:
        raise ValueError(
            f"the numbers of score lists and labels must be equal and above 0; "
            f"{len(step_scores)} and {len(first_wrong)} were given"
        )
    predicted = [predict_first_error(scores, threshold) for scores in step_scores]
    on_error = [guess == truth for guess, truth in zip(predicted, first_wrong, strict=True) if truth != -1]
    on_correct = [guess == -1 for guess, truth in zip(predicted, first_wrong, strict=True) if truth == -1]
    acc_error = sum(on_error) / len(on_error) if on_error else 0.0
    acc_correct = sum(on_correct) / len(on_correct) if on_correct else 0.0
    both = acc_error + acc_correct
    return FirstError(
        2 * acc_error * acc_correct / both if both else 0.0,
        acc_error,
        acc_correct,
        threshold,
        len(first_wrong),
    )


def choose_threshold(step_scores: Sequence[Sequence[float]], first_wrong: Sequence[int]) -> float:
    """The threshold with the best F1 on these solutions, to be used on others; exact, not from a grid."""
    return spans_of(step_scores, first_wrong).best_threshold()


@dataclass(frozen=True, slots=True)
class Spans:
    """The thresholds (low, high] at which each solution's prediction is right; none if low >= high."""

    lows_N: Floats
    highs_N: Floats
    has_error_N: Floats
    """1 for a solution with a wrong step, else 0."""

    def is_right_N(self, threshold: float) -> Floats:
        """1 for a solution whose prediction is right at the threshold, else 0."""
        return ((self.lows_N < threshold) & (threshold <= self.highs_N)).astype(np.float64)

    def best_threshold(self) -> float:
        """Return the threshold with the best F1.

        Ties go to the best sum of both accuracies, then to the lowest threshold. F1 changes only at the ends
        of spans; between two such edges the middle is taken. Below the lowest edge no wrong step is found,
        and above the highest no solution is taken as right: F1 is 0 on both sides.
        """
        has_span_N = self.lows_N < self.highs_N
        edges = np.unique(np.concatenate([self.lows_N[has_span_N], self.highs_N[has_span_N]]))
        edges = edges[np.isfinite(edges)]
        if len(edges) < 2:
            return NO_EDGE_THRESHOLD
        middles = (edges[:-1] + edges[1:]) / 2
        accuracies = []
        for kind in (1, 0):
            lows, highs = (
                np.sort(ends[has_span_N & (self.has_error_N == kind)]) for ends in (self.lows_N, self.highs_N)
            )
            num_right = np.searchsorted(lows, middles) - np.searchsorted(highs, middles)
            accuracies.append(ratio(num_right, np.sum(self.has_error_N == kind)))
        quality = np.lexsort(
            (-middles, accuracies[0] + accuracies[1], harmonic_mean(accuracies[0], accuracies[1]))
        )
        return float(middles[quality[-1]])


def spans_of(step_scores: Sequence[Sequence[float] | None], first_wrong: Sequence[int]) -> Spans:
    """Return the spans of solutions; no threshold makes the prediction of a refused one (None) right."""
    spans = [_span(scores, truth) for scores, truth in zip(step_scores, first_wrong, strict=True)]
    lows, highs = zip(*spans, strict=True)
    return Spans(np.array(lows), np.array(highs), np.array([float(truth != -1) for truth in first_wrong]))


def _span(scores: Sequence[float] | None, first_wrong: int) -> tuple[float, float]:
    if scores is None:
        return np.inf, -np.inf
    if first_wrong == -1:
        return -np.inf, min(scores)
    return scores[first_wrong], min(scores[:first_wrong], default=np.inf)


def harmonic_mean(left: Floats, right: Floats) -> Floats:
    """Return the harmonic mean, 0 if both numbers are 0."""
    return ratio(2 * left * right, left + right)
