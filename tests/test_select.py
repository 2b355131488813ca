"""Selection: aggregate x choose, with ties to the first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.select import aggregate, best, majority, vote_share, weighted_vote


def test_aggregates_of_three_steps() -> None:
    scores = [0.5, 0.8, 0.4]
    assert aggregate(scores, "last") == 0.4
    assert aggregate(scores, "min") == 0.4
    assert aggregate(scores, "prod") == pytest.approx(0.16)
    assert aggregate(scores, "mean") == pytest.approx(17 / 30)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_prod_is_at_most_min_is_at_most_mean(scores: list[float]) -> None:
    assert aggregate(scores, "prod") <= aggregate(scores, "min") <= aggregate(scores, "mean") + 1e-12


def test_best_and_votes_give_ties_to_the_first() -> None:
    assert best([0.2, 0.9, 0.9]) == 1
    assert majority(["7", "8", "8", "7"]) == 0
    assert weighted_vote(["7", "8", "8"], [0.9, 0.4, 0.4]) == 0
    assert weighted_vote(["7", "8", "8"], [0.7, 0.4, 0.4]) == 1


def test_candidates_without_an_answer_do_not_vote() -> None:
    assert majority([None, None, "3"]) == 2
    assert majority([None, None]) == 0


def test_majority_agrees_with_counting() -> None:
    answers = ["a", "b", "b", "c", "b", "a"]
    assert answers[majority(answers)] == max(set(answers), key=answers.count)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="without step scores"):
        aggregate([], "min")
    with pytest.raises(ValueError, match="last, min, prod, mean"):
        aggregate([1.0], "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many scores"):
        weighted_vote(["a"], [])


def test_a_share_is_the_winner_s_part_of_all_votes() -> None:
    assert vote_share(["7", "8", "8", None], [0.9, 0.4, 0.3, 5.0]) == pytest.approx(0.9 / 1.6)
    assert vote_share(["7", "7"], [0.2, 0.1]) == 1
    assert vote_share([None, None], [0.9, 0.9]) == vote_share(["7"], [0.0]) == 0
    with pytest.raises(ValueError, match="0 and 0 were given"):
        vote_share([], [])
