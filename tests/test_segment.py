"""Steps: joined they are the text, and anchors are where the rule says."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.search.beam import complete_steps, line_end
from forkpoint.steps import AnchorRule, calibrate_tau, newline_steps, num_shared, token_steps, tokens_at


@given(st.text(alphabet="ab \n\r\t.", max_size=60))
def test_newline_steps_joined_are_the_text(text: str) -> None:
    assert "".join(newline_steps(text)) == text


def test_every_line_with_something_in_it_is_a_step() -> None:
    assert newline_steps("one\n\ntwo\nthree") == ("one\n\n", "two\n", "three")
    assert newline_steps("\n\nfirst\nsecond\n") == ("\n\nfirst\n", "second\n")
    assert newline_steps("") == ("",)


@pytest.mark.parametrize("character", "\f\v\x1c\x1d\x1e\x85\u2028\u2029")
def test_only_line_ends_end_a_line(character: str) -> None:
    assert newline_steps(f"so {character}rac{{1}}{{2}}\nend") == (f"so {character}rac{{1}}{{2}}\n", "end")
    assert complete_steps(f"one\ntwo{character}") == ("one\n",)
    assert line_end(["a", character, "b", "\n", "c"], 0) == 4


def test_every_kind_of_line_end_ends_a_line() -> None:
    assert newline_steps("one\rtwo\r\nthree\n\rfour") == ("one\r", "two\r\n", "three\n\r", "four")
    assert newline_steps("\r\n one\n \t\ntwo") == ("\r\n one\n \t\n", "two")


@pytest.mark.parametrize("text", ["\n", "a\n", "\n \r\n"])
def test_cutting_a_text_takes_time_in_proportion_to_its_length(text: str) -> None:
    def seconds(num: int) -> float:
        started = time.process_time()
        newline_steps(text * num)
        return time.process_time() - started

    # a factor of 16 in length is one of 256 for a quadratic cut
    assert min(seconds(320_000) for _ in range(2)) < 64 * max(seconds(20_000) for _ in range(3))


@given(st.lists(st.text(alphabet="abé ", max_size=3), max_size=20), st.lists(st.integers(0, 20), max_size=6))
def test_token_steps_joined_are_the_text_and_none_is_empty(texts: list[str], starts: list[int]) -> None:
    steps, ends = token_steps(texts, starts)
    assert "".join(steps) == "".join(texts)
    assert ends[-1] == len(texts)
    assert all(steps) or steps == ("",)


def test_a_step_begins_at_its_anchor() -> None:
    assert token_steps(["a", "b", "c", "d"], [0, 2, 3]) == (("ab", "c", "d"), (2, 3, 4))


def test_tokens_at_covers_each_step_with_the_fewest_tokens() -> None:
    texts = ["ab", "\n", "c", "d\ne", "f", ""]
    steps = newline_steps("".join(texts))
    assert steps == ("ab\n", "cd\n", "ef")
    assert tokens_at(texts, steps) == (
        2,
        4,
        6,
    )  # the token "d\ne" ends beyond the second step and is counted in


def test_anchors_are_above_tau_and_never_symbols() -> None:
    rule = AnchorRule(tau=1.0)
    texts = ["So", ",", " 12", "+", "\n", "", "x", "."]
    assert rule.can_fork(texts) == [True, False, True, False, False, False, True, False]
    assert rule.anchors([2.0] * 8, rule.can_fork(texts)) == [0, 2, 6]
    assert rule.anchors([1.0, 2, 1.01, 2, 2, 2, 0.5, 2], rule.can_fork(texts)) == [2]


def test_min_gap_counts_from_the_last_anchor() -> None:
    rule = AnchorRule(tau=0.5, min_gap=3)
    assert rule.anchors([1, 1, 1, 1, 1, 1, 1], [True] * 7) == [0, 3, 6]


def test_symbols_can_be_named_or_turned_off() -> None:
    assert AnchorRule(symbols="none").can_fork(["+", "a", ""]) == [True, True, False]
    assert AnchorRule(symbols="ab").can_fork(["+", "a", "ab", "abc"]) == [True, False, False, True]


def test_calibrated_tau_gives_the_target_number_of_anchors() -> None:
    sample = [[0.1, 0.9, 1.5, 2.0], [0.2, 0.3, 1.1, 0.8]]
    tau = calibrate_tau(sample, anchors_per_solution=1.5)
    assert sum(entropy > tau for solution in sample for entropy in solution) == 3
    with pytest.raises(ValueError, match="cannot be reached"):
        calibrate_tau(sample, anchors_per_solution=4)


@pytest.mark.parametrize("arguments", [{"tau": -0.1}, {"tau": float("nan")}, {"min_gap": 0}])
def test_impossible_rules_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="was given"):
        AnchorRule(**arguments)  # type: ignore[arg-type]


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_num_shared_is_the_common_prefix(head: str, left: str, right: str) -> None:
    shared = num_shared(head + left, head + right)
    assert shared >= len(head)
    assert (head + left)[:shared] == (head + right)[:shared]
