"""Evaluation: hand-counted curves, the published F1 formula, intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forkpoint.estimates import bootstrap
from forkpoint.evaluation.first_errors import choose_threshold, first_error, predict_first_error
from forkpoint.evaluation.metrics import Attempts, CurvePoint, curve, label_quality, spearman
from forkpoint.records import Branch, Completion, Solution, Tree


def solution(answer: str, is_correct: bool, num_tokens: int = 10) -> Solution:
    return Solution(answer, (1,), (0.0,), answer, is_correct, num_tokens)


def four_attempts() -> Attempts:
    """Answers 5 5 7 7 of which 7 is right; the scorer likes the third most."""
    return Attempts(
        "p", (solution("5", False), solution("5", False), solution("7", True), solution("7", True)),
        ((0.9, 0.2), (0.8, 0.3), (0.9, 0.9), (0.4, 0.5)),
    )  # fmt: skip


def accuracy(points: list[CurvePoint], select: str, n: int, how: str | None = None) -> float:
    (found,) = [point for point in points if (point.select, point.n, point.aggregate) == (select, n, how)]
    return float(found.accuracy_P[0])


def test_exchangeable_solutions_are_averaged_over_disjoint_groups() -> None:
    points = curve([four_attempts()], [1, 2, 4], is_exchangeable=True)
    assert accuracy(points, "majority", 1) == 0.5
    assert accuracy(points, "majority", 2) == 0.5  # groups 5 5 and 7 7
    assert accuracy(points, "majority", 4) == 0.0  # a tie goes to the first answer
    assert accuracy(points, "oracle", 4) == 1.0
    assert accuracy(points, "best", 4, "min") == 1.0
    assert accuracy(points, "best", 2, "last") == 0.5


def test_tree_leaves_are_used_as_the_first_n() -> None:
    points = curve([four_attempts()], [1, 2, 3], is_exchangeable=False)
    assert [accuracy(points, "oracle", n) for n in (1, 2, 3)] == [0.0, 0.0, 1.0]
    assert {point.n: float(point.tokens_P[0]) for point in points} == {1: 10, 2: 20, 3: 30}


def test_a_policy_weighted_vote_counts_a_leaf_by_its_path_and_the_cube_of_its_score() -> None:
    def branch(parent_idx: int | None, fork: int, taken: float = 0.9, other: float = 0.1) -> Branch:
        sure = (math.log(0.9),) * 3
        return Branch(
            parent_idx,
            fork,
            Completion(
                (1,) * 4, (math.log(taken), *sure), (0.0,) * 4, (2,) * 4, (math.log(other), *sure), "stop"
            ),
        )

    # half as likely as what they leave: the policy gives leaf 0 2/3 * 2/3, leaf 1 1/3, leaf 2 2/3 * 1/3
    tree = Tree((7,), (branch(None, 0), branch(0, 1, 0.3, 0.6), branch(0, 3, 0.2, 0.4)))
    solutions = (solution("7", True), solution("5", False), solution("5", False))
    # .444 * .9 < .333 * .91 + .222 * .45, but .444 * .9^3 > .333 * .91^3 + .222 * .45^3
    points = curve([Attempts("p", solutions, ((0.9,), (0.91,), (0.45,)), tree)], [3], is_exchangeable=False)
    assert accuracy(points, "policy-weighted", 3, "min") == 1.0
    assert [accuracy(points, select, 3, "min") for select in ("best", "weighted")] == [0.0, 0.0]
    even = curve([Attempts("p", solutions, ((0.9,), (0.9,), (0.9,)), tree)], [2, 3], is_exchangeable=False)
    assert [accuracy(even, "policy-weighted", n, "min") for n in (2, 3)] == [
        1.0,
        0.0,
    ]  # 2/3 to 1/3; 4/9 to 5/9
    no_tree = curve([Attempts("p", solutions, ((0.9,), (0.91,), (0.45,)))], [3], is_exchangeable=False)
    assert "policy-weighted" not in {point.select for point in no_tree}
    with pytest.raises(ValueError, match="not exchangeable"):
        curve([Attempts("p", solutions, ((0.9,), (0.91,), (0.45,)), tree)], [1], is_exchangeable=True)


def test_a_problem_with_few_solutions_uses_all_it_has() -> None:
    assert accuracy(curve([four_attempts()], [64], is_exchangeable=False), "oracle", 64) == 1.0


def test_without_scores_there_are_no_score_picks() -> None:
    points = curve([Attempts("p", four_attempts().solutions)], [4], is_exchangeable=True)
    assert {point.select for point in points} == {"majority", "oracle"}


def test_bootstrap_interval_matches_the_normal_one_and_is_reproducible() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    estimate = bootstrap(values)
    half_width = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - half_width, abs=0.004)
    assert estimate.high == pytest.approx(0.3 + half_width, abs=0.004)
    assert bootstrap(values) == estimate


def test_bootstrap_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        estimate = bootstrap((rng.random(100) < 0.4).astype(float))
        covered += estimate.low <= 0.4 <= estimate.high
    assert 88 <= covered <= 100


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    rng = np.random.default_rng(2)
    left = (rng.random(400) < 0.5).astype(float)
    right = np.where(rng.random(400) < 0.05, 1 - left, left)
    paired = bootstrap(left - right)
    assert paired.high - paired.low < 0.5 * math.hypot(*(2 * 1.96 * math.sqrt(0.25 / 400),) * 2)


def test_bootstrap_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_first_error_is_scored_as_processbench_does() -> None:
    scores = [[0.9, 0.2], [0.9, 0.9], [0.1, 0.9], [0.9, 0.4]]
    truths = [1, -1, 1, -1]
    found = first_error(scores, truths, threshold=0.5)
    assert (found.acc_error, found.acc_correct) == (0.5, 0.5)
    assert found.f1 == pytest.approx(0.5)
    assert first_error(scores, truths, threshold=0.0).f1 == 0.0  # finds no error, so acc_error is 0
    assert predict_first_error([0.9, 0.5], 0.5) == -1


def test_chosen_threshold_separates_what_can_be_separated() -> None:
    scores = [[0.9, 0.35], [0.8, 0.45], [0.3, 0.9]]
    threshold = choose_threshold(scores, [1, -1, 0])
    assert 0.35 < threshold <= 0.45
    assert first_error(scores, [1, -1, 0], threshold).f1 == 1.0


def test_the_threshold_is_found_among_scores_however_small() -> None:
    scores = [[0.004, 0.001], [0.006, 0.005], [0.0002, 0.009]]
    threshold = choose_threshold(scores, [1, -1, 0])
    assert 0.001 < threshold <= 0.004
    assert first_error(scores, [1, -1, 0], threshold).f1 == 1.0


def test_label_quality_by_hand() -> None:
    quality = label_quality([0.0, 0.5, 1.0], [0.2, 0.4, 0.9])
    assert quality.mae == pytest.approx(0.4 / 3)
    assert 0 <= quality.mae_low < quality.mae < quality.mae_high < 0.4
    assert quality.bias == pytest.approx(0.0)
    assert quality.correlation == pytest.approx(1.0)


def test_spearman_ranks_ties_by_their_mean() -> None:
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([10.0, 20, 20, 30])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1.0)
    assert math.isnan(spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])))
