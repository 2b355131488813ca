"""Labels: closed form on hand-drawn trees, the published check values, and the laws of values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import forkpoint
from forkpoint.labels.leaves import Leaves, final_label, label_of, leaf_shares, wilson_interval
from forkpoint.labels.values import (
    PRODUCTS,
    canonical_value,
    hit,
    log_mean_exp,
    mean,
    product_named,
    value_named,
)
from forkpoint.records import Branch, Completion, Tree

PUBLISHED = {
    0.1: (0.066, 0.131, 0.260, 0.512, 0.759, 0.940),
    1: (0.102, 0.195, 0.357, 0.620, 0.828, 0.960),
    2: (0.168, 0.294, 0.477, 0.717, 0.878, 0.972),
    5: (0.465, 0.593, 0.727, 0.863, 0.943, 0.987),
    8: (0.654, 0.740, 0.827, 0.913, 0.964, 0.992),
    10: (0.723, 0.792, 0.861, 0.931, 0.971, 0.994),
}
"""ER-PRM labels of 16 completions with 1, 2, 4, 8, 12, 15 right (arXiv 2412.11006, eq. 1)."""


@pytest.mark.parametrize("eta", PUBLISHED)
def test_log_mean_exp_gives_the_published_labels(eta: float) -> None:
    for num_correct, expected in zip((1, 2, 4, 8, 12, 15), PUBLISHED[eta], strict=True):
        assert round(log_mean_exp(eta)([1] * num_correct + [0] * (16 - num_correct)), 3) == expected


def test_log_mean_exp_is_public() -> None:
    assert round(forkpoint.log_mean_exp(2.0)([1] * 4 + [0] * 12), 3) == 0.477


outcomes = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)
etas = st.floats(-50, 50, allow_nan=False)


@example([0.0, 1.0], 1.0, 5e-324)  # 1 / 5e-324 is infinite
@given(outcomes, etas, etas)
def test_values_lie_between_minimum_and_hit_and_grow_with_eta(
    results: list[float], eta: float, other: float
) -> None:
    low, high = sorted((eta, other))
    values = [
        log_mean_exp(-math.inf)(results),
        log_mean_exp(low)(results),
        log_mean_exp(high)(results),
        hit(results),
    ]
    assert all(left <= right + 1e-9 for left, right in pairwise(values))


@given(outcomes)
def test_eta_near_zero_is_the_mean_and_huge_etas_are_the_limits(results: list[float]) -> None:
    assert log_mean_exp(0.0)(results) == pytest.approx(mean(results), abs=1e-12)
    assert log_mean_exp(1e-8)(results) == pytest.approx(mean(results), abs=1e-6)
    assert log_mean_exp(1e6)(results) == pytest.approx(hit(results), abs=1e-5)
    assert log_mean_exp(-1e6)(results) == pytest.approx(min(results), abs=1e-5)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(1, 5)), min_size=1, max_size=10), etas)
def test_integer_weights_are_repetitions(pairs: list[tuple[float, int]], eta: float) -> None:
    results, weights = zip(*pairs, strict=True)
    repeated = [result for result, weight in pairs for _ in range(weight)]
    assert log_mean_exp(eta)(results, weights) == pytest.approx(log_mean_exp(eta)(repeated), abs=1e-9)


def test_value_names() -> None:
    assert value_named("mean") == mean
    assert value_named("hit") == hit
    assert value_named("er:-2.5") == log_mean_exp(-2.5)
    with pytest.raises(ValueError, match="choose from mean, hit, outcome, er:ETA"):
        value_named("maen")
    with pytest.raises(ValueError, match="no number"):
        value_named("er:two")
    assert value_named("er", 10) == value_named("er:10") == log_mean_exp(10)
    assert value_named("er") == log_mean_exp(2.0)
    with pytest.raises(ValueError, match="er:2' and eta 3 both say"):
        value_named("er:2", 3)
    with pytest.raises(ValueError, match="'mean' has no eta"):
        value_named("mean", 3)


def test_published_labels_have_names() -> None:
    found = {name: (product_named(name).plan, canonical_value(name)) for name in PRODUCTS}
    assert found == {
        "edu": ("leaves", "mean"),
        "er": ("rollouts", "er:2"),
        "shepherd-hard": ("rollouts", "hit"),
        "shepherd-soft": ("rollouts", "mean"),
        "omega": ("bisect", "mean"),
        "orm": ("rollouts", "outcome"),
    }
    with pytest.raises(ValueError, match="choose from edu, er, shepherd-hard, shepherd-soft, omega, orm"):
        product_named("sheperd")


@pytest.mark.parametrize(
    ("results", "weights"), [([], None), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([1.0, 0.0], [-1.0, 2.0])]
)
def test_impossible_weights_are_refused(results: list[float], weights: list[float] | None) -> None:
    with pytest.raises(ValueError, match="weights"):
        mean(results, weights)


def test_wilson_interval_of_8_in_10_is_the_textbook_one() -> None:
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0.0, 5)[0] == 0.0
    assert wilson_interval(1.0, 5)[1] == 1.0
    assert wilson_interval(0.5, 0) == (0.0, 1.0)


def test_a_label_carries_its_evidence() -> None:
    label = label_of([True, True, False], [2.0, 1.0, 1.0], mean)
    assert (label.num_correct, label.num_total) == (2, 3)
    assert label.value == pytest.approx(0.75)
    assert label.effective_size == pytest.approx(16 / 6)
    assert label.low < 0.75 < label.high


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.sampled_from(["mean", "hit", "er:2", "er:-3"]))
def test_intervals_contain_their_value(results: list[bool], name: str) -> None:
    label = label_of(results, None, value_named(name))
    assert 0 <= label.low <= label.value <= label.high <= 1 + 1e-12


def path(text: str, logprob: float = -0.1, runner_up_logprob: float = -3.0) -> Completion:
    """A completion whose tokens are the characters of `text`."""
    size = len(text)
    return Completion(
        tuple(map(ord, text)),
        (logprob,) * size,
        (0.5,) * size,
        (ord("?"),) * size,
        (runner_up_logprob,) * size,
        "stop",
    )


def hand_drawn_tree() -> Tree:
    r"""Four leaves, drawn so that fork i happens at a known place.

    a b c d          leaf 0, the root branch
      \ X e f        leaf 1 forks from leaf 0 at position 1
          \ Y g      leaf 2 forks from leaf 1 at position 3
    a b c Z          leaf 3 forks from leaf 0 at position 3
    """
    return Tree(
        (7,),
        (
            Branch(None, 0, path("abcd")),
            Branch(0, 1, path("Xef")),
            Branch(1, 3, path("Yg")),
            Branch(0, 3, path("Z")),
        ),
    )


def test_a_prefix_is_worth_the_leaves_that_share_it() -> None:
    leaves = Leaves(hand_drawn_tree(), [True, False, True, False])
    below = {
        (leaf, size): leaves.below(leaf, size)
        for leaf, size in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (2, 4), (3, 3)]
    }
    assert below == {
        (0, 1): [0, 1, 2, 3], (0, 2): [0, 3], (0, 3): [0, 3], (1, 2): [1, 2],
        (1, 3): [1, 2], (2, 3): [1, 2], (2, 4): [2], (3, 3): [0, 3],
    }  # fmt: skip
    assert [leaves.label(0, size, mean).value for size in (1, 2, 3, 4)] == [0.5, 0.5, 0.5, 1.0]
    assert leaves.label(1, 2, mean).value == 0.5
    assert leaves.label(1, 4, mean) == final_label(False)
    assert leaves.label(0, 1, hit).value == 1.0


def test_below_agrees_with_brute_force_over_paths() -> None:
    tree = hand_drawn_tree()
    leaves = Leaves(tree, [True] * 4)
    paths = [tree.path(idx).token_ids for idx in range(4)]
    for leaf_idx, own in enumerate(paths):
        for size in range(len(own) + 1):
            expected = [idx for idx, other in enumerate(paths) if other[:size] == own[:size]]
            assert leaves.below(leaf_idx, size) == expected


def test_policy_weights_are_products_of_renormalised_branch_probabilities() -> None:
    def branch(text: str, taken: float, other: float) -> Completion:
        own = path(text)
        return Completion(
            own.token_ids, (math.log(taken), *own.logprobs[1:]), own.entropies, own.runner_up_ids,
            (math.log(other), *own.runner_up_logprobs[1:]), "stop",
        )  # fmt: skip

    # at position 1 the root takes b with .5 against X with .25;
    # at position 3 c.. takes d with .6 against Z with .3
    tree = Tree(
        (7,),
        (
            Branch(None, 0, path("abcd")),
            Branch(0, 1, branch("Xef", 0.25, 0.5)),
            Branch(0, 3, branch("Z", 0.3, 0.6)),
        ),
    )
    leaves = Leaves(tree, [True, False, False], "policy")
    label = leaves.label(0, 1, mean)
    assert label.value == pytest.approx((2 / 3) * (2 / 3))  # right is only leaf 0: b over X, then d over Z
    weights = [4 / 9, 1 / 3, 2 / 9]
    assert label.effective_size == pytest.approx(1 / sum(weight**2 for weight in weights))
    assert leaves.label(0, 2, mean).value == pytest.approx(2 / 3)
    assert leaf_shares(tree) == pytest.approx(weights)
    assert leaf_shares(tree, 2) == pytest.approx([2 / 3, 1 / 3])


def test_uniform_and_policy_weights_agree_where_all_leaves_agree() -> None:
    for outcome in (True, False):
        for weighting in ("uniform", "policy"):
            assert Leaves(hand_drawn_tree(), [outcome] * 4, weighting).label(
                0, 1, mean
            ).value == pytest.approx(float(outcome))


def test_outcomes_must_match_the_leaves() -> None:
    with pytest.raises(ValueError, match="4 leaves needs as many outcomes; 1"):
        Leaves(hand_drawn_tree(), [True])
