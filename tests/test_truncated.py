"""Entropies from the most probable tokens, against exact entropies of whole distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from forkpoint.policies.truncated import BOUNDS, completion_from_top, entropy_interval

ROUNDING = 1e-9
WEIGHTS = st.lists(
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-12, 1e-3, 1.0])), min_size=1, max_size=40
)


@st.composite
def distributions(draw: st.DrawFn) -> list[float]:
    """Probabilities in descending order: flat, peaked, with ties and with zeros."""
    weights = [weight ** draw(st.sampled_from([1, 8])) for weight in draw(WEIGHTS)]
    total = math.fsum(weights)
    assume(total > 0)
    return sorted((weight / total for weight in weights), reverse=True)


def entropy(probs: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in probs if p > 0)


def top(probs: Sequence[float], num_top: int, *others: int) -> dict[int, float]:
    """Log-probabilities of the first tokens and of `others`, as an engine returns them."""
    return {idx: math.log(probs[idx]) if probs[idx] > 0 else -math.inf for idx in (*range(num_top), *others)}


@given(distributions(), st.data())
def test_the_interval_holds_the_entropy_for_every_k_and_shrinks_with_k(
    probs: list[float], data: st.DataObject
) -> None:
    outer = (-math.inf, math.inf)
    for num_top in range(1, len(probs) + 1):
        low, high = entropy_interval(top(probs, num_top), len(probs), num_top)
        assert max(low, outer[0]) - ROUNDING <= low <= entropy(probs) + ROUNDING
        assert entropy(probs) - ROUNDING <= high <= outer[1] + ROUNDING
        outer = (low, high)
    num_top = data.draw(st.integers(1, len(probs)))
    taken = data.draw(st.integers(0, len(probs) - 1))
    wide = entropy_interval(top(probs, num_top), len(probs), num_top)
    low, high = entropy_interval(top(probs, num_top, taken), len(probs), num_top)
    assert (
        wide[0] - ROUNDING <= low <= entropy(probs) + ROUNDING
        and entropy(probs) - ROUNDING <= high <= wide[1] + ROUNDING
    )


@given(distributions())
def test_the_whole_vocabulary_gives_the_entropy_itself(probs: list[float]) -> None:
    low, high = entropy_interval(top(probs, len(probs)), len(probs), len(probs))
    assert low == high == pytest.approx(entropy(probs), abs=ROUNDING)


@given(distributions(), st.data())
def test_both_ends_are_entropies_of_distributions_with_the_same_top(
    probs: list[float], data: st.DataObject
) -> None:
    """The tail is filled up from the first other token, or spread evenly; both sum to 1."""
    num_top = data.draw(st.integers(1, len(probs)))
    head, tail, num_others = probs[:num_top], max(0.0, 1 - math.fsum(probs[:num_top])), len(probs) - num_top
    filled = list(head)
    for _ in range(num_others):
        filled.append(min(head[-1], max(0.0, 1 - math.fsum(filled))))
    spread = head + [tail / num_others] * num_others if num_others else head
    for extreme in (filled, spread):
        assert (
            math.fsum(extreme) == pytest.approx(1)
            and max(extreme[num_top:], default=0.0) <= head[-1] + ROUNDING
        )
    low, high = entropy_interval(top(probs, num_top), len(probs), num_top)
    assert [low, high] == pytest.approx([entropy(filled), entropy(spread)], abs=ROUNDING)


def test_closed_forms() -> None:
    """0.5 and 0.2 are known of ten tokens: the other 0.3 are 0.2 and 0.1, or eight times 0.0375."""
    known = {7: math.log(0.5), 3: math.log(0.2)}
    low, high = entropy_interval(known, 10, 2)
    assert low == pytest.approx(entropy([0.5, 0.2, 0.2, 0.1]))
    assert high == pytest.approx(entropy([0.5, 0.2] + [0.0375] * 8))
    low, high = entropy_interval(known | {9: math.log(0.05)}, 10, 2)
    assert low == pytest.approx(entropy([0.5, 0.2, 0.05, 0.2, 0.05]))
    assert high == pytest.approx(entropy([0.5, 0.2, 0.05] + [0.25 / 7] * 7))


def test_rounding_leaves_neither_negative_tails_nor_crossed_ends() -> None:
    above = {0: math.log(0.7 + 1e-7), 1: math.log(0.3)}
    low, high = entropy_interval(above, 50_000, 2)
    assert low == high == pytest.approx(entropy([0.7, 0.3]), abs=1e-6)
    even = {idx: math.log(0.25) - 1e-8 for idx in range(3)}
    low, high = entropy_interval(even, 4, 3)
    assert low == high == pytest.approx(math.log(4), abs=1e-6)
    assert entropy_interval({0: 0.0, 1: -math.inf}, 5, 2) == (0.0, 0.0)
    for vocab_size in range(2, 70):
        for num_top in range(1, vocab_size):
            low, high = entropy_interval(
                dict.fromkeys(range(num_top), math.log(1 / vocab_size + 1e-16)), vocab_size, num_top
            )
            assert low <= high


def test_a_completion_has_the_end_that_was_asked_for_and_the_best_other_token_as_runner_up() -> None:
    """A token taken from outside of the top 2 counts as known; of equals the lowest id runs up."""
    top_2 = {7: math.log(0.5), 3: math.log(0.2)}
    positions = [
        top_2,
        top_2,
        top_2 | {9: math.log(0.05)},
        {8: math.log(0.4), 6: math.log(0.4), 5: math.log(0.1)},
    ]
    for end, bound in enumerate(BOUNDS):
        completion = completion_from_top(
            (7, 3, 9, 5), positions, "length", vocab_size=10, num_top=2, bound=bound, num_reused_tokens=32
        )
        assert completion.logprobs == pytest.approx([math.log(p) for p in (0.5, 0.2, 0.05, 0.1)])
        assert completion.runner_up_ids == (3, 7, 7, 6)
        assert completion.runner_up_logprobs == pytest.approx([math.log(p) for p in (0.2, 0.5, 0.5, 0.4)])
        assert completion.entropies[1:3] == tuple(
            entropy_interval(position, 10, 2)[end] for position in positions[1:3]
        )
        assert (completion.token_ids, completion.finish, completion.num_reused_tokens) == (
            (7, 3, 9, 5),
            "length",
            32,
        )


def test_fewer_tokens_than_the_top_or_more_than_the_vocabulary_are_refused() -> None:
    for num_top, vocab_size in ((3, 10), (0, 10), (1, 1)):
        with pytest.raises(ValueError, match="2 tokens were given; the top"):
            entropy_interval({0: -0.7, 1: -0.8}, vocab_size, num_top)
