"""Search with a PRM: small cases computed by hand, the laws of each method, and killed runs that continue."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoints import make_model, make_tokenizer
from forkpoint.cli.app import main
from forkpoint.errors import ConfigDiffers
from forkpoint.evaluation.metrics import Attempts, curve
from forkpoint.policies import LAB_POLICY, ScriptedPolicy, load_policy
from forkpoint.prms.config import FamilyConfig
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.tagged import TaggedPRM
from forkpoint.problems import load_problems
from forkpoint.records import Problem, Solution
from forkpoint.runs import LocalExecutor, Run
from forkpoint.runs.parcel import parcel_of
from forkpoint.search import METHODS, Guide, SearchConfig, run_search
from forkpoint.search.beam import complete_steps, line_end
from forkpoint.search.guide import Draft, Readings
from forkpoint.search.loaded_prm import LoadedPRM
from forkpoint.search.result import SearchResult, SearchTokens
from forkpoint.search.run import SearchWork
from forkpoint.search.step_search import search_beams, search_subtrees
from forkpoint.search.whole import search_adaptive, search_samples, search_tree
from forkpoint.select import AGGREGATES, aggregate, vote_share
from forkpoint.solutions.sample import RolloutConfig, sample
from forkpoint.solutions.solve import solve_by_tree
from forkpoint.trees.grow import TreeConfig

ROOT = Path(__file__).parents[1]
QUIET = LocalExecutor(chunk_size=2, progress=False)
SAMPLING = [search_samples, search_beams, search_subtrees]
SEARCHES = [*SAMPLING, search_tree, search_adaptive]


class ScriptedScorer:
    """A `Scorer` that calls `worth` with the text up to the end of each step; it records its batches."""

    name = "scripted"

    def __init__(self, worth: Callable[[str, str], float]) -> None:
        self._worth = worth
        self.batches: list[list[tuple[str, ...]]] = []

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        self.batches.append([tuple(steps_of_text) for steps_of_text in steps])
        return [
            [self._worth(question, "".join(steps_of_text[: idx + 1])) for idx in range(len(steps_of_text))]
            for question, steps_of_text in zip(questions, steps, strict=True)
        ]


def guide(worth: Callable[[str, str], float]) -> Guide:
    return Guide(ScriptedScorer(worth))


def problem(question: str = "?", answer: str = "1") -> Problem:
    return Problem(question, question, answer)


DEPTH = 6
RIGHT = "".join(f"r{idx}\n" for idx in range(DEPTH))


def needle(question: str, text: str) -> dict[str, float]:
    """One in four lines is right, and never the likeliest one: a right solution has probability 1 in 4096."""
    num_lines = text.count("\n")
    if num_lines == DEPTH:
        return (
            {"The answer is 1": 1.0}
            if text == RIGHT
            else {"The answer is 0": 1.0}
            if text.endswith("\n")
            else {"<end>": 1.0}
        )
    return {f"{letter}{num_lines}\n": p for letter, p in (("w", 0.4), ("r", 0.25), ("x", 0.2), ("y", 0.15))}


NEEDLE = ScriptedPolicy(
    needle,
    words=[
        *(f"{letter}{idx}\n" for letter in "wrxy" for idx in range(DEPTH)),
        "The answer is 1",
        "The answer is 0",
    ],
    name="needle",
)


def oracle(question: str, text: str) -> float:
    return float(RIGHT.startswith(text) or text.startswith(RIGHT))


def random_policy(seed: int) -> ScriptedPolicy:
    def script(question: str, text: str) -> dict[str, float]:
        rng = random.Random(f"{seed}/{question}/{text}")
        if rng.random() < 0.02 * len(text):
            return {"<end>": 1.0}
        weights = [rng.random() ** 3 + 1e-3 for _ in "ab\n1"]
        return {token: weight / sum(weights) for token, weight in zip("ab\n1", weights, strict=True)}

    return ScriptedPolicy(script, name=f"random-{seed}")


def random_worth(question: str, text: str) -> float:
    return random.Random(f"{question}/{text}").random()


PROBLEMS = [problem(f"question {idx}") for idx in range(8)]
SMALL = SearchConfig(num_samples=8, branching=2, temperature=1.0, max_tokens=40, chunk_tokens=3)


# what is found


@pytest.mark.parametrize("search", [search_beams, search_subtrees])
def test_a_step_search_with_an_oracle_finds_what_samples_and_greedy_miss(search: Any) -> None:
    config = SearchConfig(
        num_samples=32, branching=16, temperature=1.0, chunk_tokens=1
    )  # nothing behind the end of a step
    (found,) = search(NEEDLE, [problem()], guide(oracle), config)
    (samples,) = search_samples(NEEDLE, [problem()], guide(oracle), config)
    (greedy,) = search_samples(
        NEEDLE, [problem()], guide(oracle), SearchConfig(num_samples=1, branching=1, temperature=0.0)
    )
    assert found.found[found.pick("best", "min")].end.is_correct
    assert not any(item.end.is_correct for item in (*samples.found, *greedy.found))
    assert found.tokens.sampled <= samples.tokens.sampled


FULL = {"": "ab", "a\n": "cd", "b\n": "cd"} | {f"{one}\n{two}\n": "12" for one in "ab" for two in "cd"}
"""A full binary tree of eight solutions: two lines, and a last one without an end."""
FULL_POLICY = ScriptedPolicy(
    {
        text: {token if token in "12" else f"{token}\n": 0.5 for token in tokens}
        for text, tokens in FULL.items()
    }
)
FULL_LEAVES = [f"{one}\n{two}\n{end}" for one in "ab" for two in "cd" for end in "12"]


def worth_of(question: str, text: str, how: Any) -> float:
    scores = [random_worth(question, part) for part in itertools.accumulate(text.splitlines(keepends=True))]
    return round(aggregate([round(score, 6) for score in scores], how), 9)


@pytest.mark.parametrize("how", AGGREGATES)
def test_beams_of_which_none_is_dropped_find_the_best_leaf_of_all(how: Any) -> None:
    config = SearchConfig(num_samples=128, branching=1, temperature=1.0, aggregate=how)
    for result in search_beams(FULL_POLICY, PROBLEMS, guide(random_worth), config):
        assert {"".join(item.steps) for item in result.found} == set(FULL_LEAVES)
        expected = max(FULL_LEAVES, key=lambda text: worth_of(result.problem.question, text, how))
        assert "".join(result.found[result.pick("best", how)].steps) == expected


@pytest.mark.parametrize("how", AGGREGATES)
def test_a_single_beam_that_sees_every_child_goes_down_to_the_best_one_each_time(how: Any) -> None:
    config = SearchConfig(num_samples=32, branching=32, temperature=1.0, aggregate=how)
    for result in search_beams(FULL_POLICY, PROBLEMS, guide(random_worth), config):
        text = ""
        while text in FULL:
            children = [f"{text}{token}" if token in "12" else f"{text}{token}\n" for token in FULL[text]]
            ranked = [worth_of(result.problem.question, child, how) for child in children]
            if ranked[0] == ranked[1]:  # min: neither is worse than what is before it
                break
            text = children[ranked.index(max(ranked))]
        assert "".join(result.found[0].steps).startswith(text)


def test_equal_scores_prefer_what_is_finished_and_then_what_came_first() -> None:
    policy = ScriptedPolicy({"": {"a\n": 0.5, "b": 0.5}, "a\n": {"c\n": 1.0}, "a\nc\n": {"d": 1.0}})
    one = SearchConfig(num_samples=32, branching=32, temperature=1.0)
    for result in search_beams(policy, PROBLEMS, guide(lambda *_: 0.5), one):  # drawn in any order
        assert [item.steps for item in result.found] == [("b",)]
    for result in search_beams(policy, PROBLEMS, guide(lambda _, text: 0.5 if text == "b" else 0.6), one):
        assert [item.steps for item in result.found] == [("a\n", "c\n", "d")]


@pytest.mark.parametrize(("later", "expected"), [(0.9, {"a\nc"}), (0.55, {"b", "a\nc"})])
def test_a_finished_beam_keeps_its_place_only_while_it_is_among_the_best(
    later: float, expected: set[str]
) -> None:
    """About 3 of 32 draws are b, which beats a and stays among the 16; some 26 candidates continue from a."""
    policy = ScriptedPolicy({"": {"a\n": 0.9, "b": 0.1}, "a\n": {"c": 1.0}})
    worth = {"b": 0.6, "a\n": 0.5, "a\nc": later}
    config = SearchConfig(num_samples=32, branching=2, temperature=1.0, aggregate="last")
    (result,) = search_beams(policy, [problem()], guide(lambda _, text: worth[text]), config)
    assert len(result.found) == 16 and {"".join(item.steps) for item in result.found} == expected


def test_what_is_drawn_often_and_scores_well_gets_as_many_continuations() -> None:
    policy = ScriptedPolicy({"": {"a\n": 0.8, "b\n": 0.2}, "a\n": {"c": 0.5, "d": 0.5}, "b\n": {"c": 1.0}})
    search_beams(
        policy,
        [problem()],
        guide(lambda _, text: float(text[0] == "a")),
        SearchConfig(num_samples=16, branching=4, temperature=1.0),
    )
    assert policy.batch_sizes[0] == 16
    continued = [policy.decode(request.prefix_ids[2:]) for request in policy.requests[16:]]
    assert (
        set(continued) == {"a\n"} and len(continued) >= 12
    )  # four copies, the first continuation of each has its tail


# laws


@pytest.mark.parametrize("search", SAMPLING)
def test_one_beam_with_one_sample_is_sampling(search: Any) -> None:
    policy = random_policy(0)
    config = SearchConfig(num_samples=1, branching=1, temperature=1.0, max_tokens=40, chunk_tokens=40)
    prompts = [policy.encode_question(item.question) for item in PROBLEMS]
    sampled = sample(policy, prompts, RolloutConfig(1, temperature=1.0, max_tokens=40))
    results = search(policy, PROBLEMS, guide(random_worth), config)
    assert ["".join(result.found[0].steps) for result in results] == [
        policy.decode(item.token_ids) for ((item,), _) in sampled
    ]
    assert [result.tokens.sampled for result in results] == [cost.sampled_tokens for _, cost in sampled]


def test_cutting_at_line_ends_leaves_the_distribution_as_it_is() -> None:
    policy = ScriptedPolicy(
        {
            "": {"a": 0.5, "\n": 0.5},
            "a": {"\n": 1.0},
            "a\n": {"\n": 0.5, "b": 0.5},
            "a\n\n": {"b": 1.0},
            "\n": {"c": 1.0},
        }
    )
    config = SearchConfig(num_samples=1, branching=1, temperature=1.0, chunk_tokens=2)
    items = [problem(str(idx)) for idx in range(2000)]
    texts = [
        "".join(result.found[0].steps) for result in search_beams(policy, items, guide(random_worth), config)
    ]
    assert {text: texts.count(text) / 2000 for text in set(texts)} == pytest.approx(
        {"\nc": 0.5, "a\nb": 0.25, "a\n\nb": 0.25}, abs=0.05
    )


@pytest.mark.parametrize("search", [search_beams, search_subtrees])
def test_chunks_change_what_is_thrown_away_and_nothing_else(search: Any) -> None:
    policy, greedy = random_policy(1), replace(SMALL, temperature=0.0)
    found = [
        [
            result.found
            for result in search(policy, PROBLEMS, guide(random_worth), replace(greedy, chunk_tokens=n))
        ]
        for n in (1, 2, 7, 40)
    ]
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_problem_s_result_does_not_know_what_is_searched_beside_it(search: Any) -> None:
    policy = random_policy(2)
    together = search(policy, PROBLEMS, guide(random_worth), SMALL)
    assert together == [
        result for item in PROBLEMS for result in search(policy, [item], guide(random_worth), SMALL)
    ]
    assert together == search(policy, PROBLEMS[::-1], guide(random_worth), SMALL)[::-1]
    if search is not search_tree:  # whose leaves are greedy
        assert together != search(policy, PROBLEMS, guide(random_worth), replace(SMALL, seed=1))


def test_subtrees_are_the_same_however_many_there_are() -> None:
    few, many = (
        search_subtrees(random_policy(3), PROBLEMS, guide(random_worth), replace(SMALL, num_samples=n))
        for n in (4, 8)
    )
    for left, right in zip(few, many, strict=True):
        assert left.found == right.found[:2] and len(right.found) == 4


def test_a_single_subtree_is_a_single_beam() -> None:
    config = replace(SMALL, num_samples=4, branching=4)
    policy = random_policy(4)
    assert search_subtrees(policy, PROBLEMS, guide(random_worth), config) == search_beams(
        policy, PROBLEMS, guide(random_worth), config
    )


def test_subtrees_stay_apart_where_a_beam_follows_one_first_step() -> None:
    """A subtree begins with b if none of its M = 2 draws is a, with probability 1/4.

    Two beams that can both continue from a do so.
    """
    policy = ScriptedPolicy(
        {"": {"a\n": 0.5, "b\n": 0.5}, "a\n": {"c": 0.5, "d": 0.5}, "b\n": {"c": 0.5, "d": 0.5}}
    )
    worth = guide(lambda _, text: 0.9 if text[0] == "a" else 0.1)
    items = [problem(str(idx)) for idx in range(100)]
    config = SearchConfig(num_samples=16, branching=2, temperature=1.0)
    subtrees = search_subtrees(policy, items, worth, config)
    beams = search_beams(policy, items, worth, replace(config, num_samples=32, branching=16))
    first = [item.steps[0] for result in subtrees for item in result.found]
    assert len(first) == 800 and first.count("b\n") / 800 == pytest.approx(1 / 4, abs=0.06)
    assert {item.steps[0] for result in beams for item in result.found} == {"a\n"}


def test_samples_are_picked_as_an_evaluation_picks_them() -> None:
    policy = random_policy(5)
    results = search_samples(policy, PROBLEMS, guide(random_worth), SMALL)
    attempts = [
        Attempts(
            result.problem.id,
            tuple(
                Solution("".join(item.steps), (), (), item.end.answer, item.end.is_correct, item.num_tokens)
                for item in result.found
            ),
            tuple(item.scores for item in result.found),
        )
        for result in results
    ]
    points = {
        (point.select, point.aggregate): point.accuracy_P
        for point in curve(attempts, [8], is_exchangeable=True)
    }
    for how in AGGREGATES:
        for choose in ("best", "weighted"):
            right = [result.found[result.pick(choose, how)].end.is_correct for result in results]
            assert right == list(points[choose, how])


# steps


def test_leaves_are_those_of_a_tree_grown_without_a_prm_and_picked_as_in_an_evaluation() -> None:
    policy = random_policy(5)
    config = TreeConfig(num_leaves=SMALL.num_samples, tau=0.3, max_tokens=SMALL.max_tokens)
    outcomes = solve_by_tree(policy, PROBLEMS, config)
    results = search_tree(policy, PROBLEMS, guide(random_worth), replace(SMALL, tau=0.3))
    assert [["".join(item.steps) for item in result.found] for result in results] == [
        [outcome.path(idx).text for idx in range(len(outcome.ends))] for outcome in outcomes
    ]
    assert [result.tokens.sampled for result in results] == [
        outcome.cost.sampled_tokens for outcome in outcomes
    ]
    assert any(len(result.found) > 1 for result in results)
    assert results != search_tree(policy, PROBLEMS, guide(random_worth), replace(SMALL, tau=3.0))

    attempts = [
        Attempts(
            outcome.problem.id, outcome.solutions(), tuple(item.scores for item in result.found), outcome.tree
        )
        for outcome, result in zip(outcomes, results, strict=True)
    ]
    points = {
        (point.select, point.aggregate): point.accuracy_P
        for point in curve(attempts, [SMALL.num_samples], is_exchangeable=False)
    }
    for how in AGGREGATES:
        for choose in ("best", "weighted", "policy-weighted"):
            right = [
                result.found[result.pick(choose, how, SMALL.sharpness)].end.is_correct for result in results
            ]
            assert right == list(points[choose, how])


def test_an_adaptive_search_is_a_tree_and_as_many_samples_as_the_vote_asks_for() -> None:
    policy, worth = random_policy(5), guide(random_worth)
    config = replace(SMALL, draw=3)
    trees, samples = (search(policy, PROBLEMS, worth, config) for search in (search_tree, search_samples))
    num_drawn = set()
    for enough in (0.0, 0.4, 0.7, 1.0):
        for tree, drawn, found in zip(
            trees,
            samples,
            search_adaptive(policy, PROBLEMS, worth, replace(config, enough=enough)),
            strict=True,
        ):
            num = len(found.found) - len(tree.found)
            num_drawn.add(num)
            assert found.found == tree.found + drawn.found[:num]
            for size in range(0, num + 1, 3):
                pool = tree.found + drawn.found[:size]
                votes = [item.weight * min(item.scores) ** 3 for item in pool]
                share = vote_share([item.end.answer for item in pool], votes)
                assert (share >= enough) == (size == num) or num == config.num_samples
    assert num_drawn >= {0, 3, config.num_samples}


def test_a_vote_that_is_clear_costs_a_tree() -> None:
    policy = ScriptedPolicy({"": {"a\n": 0.6, "b\n": 0.4}, "a\n": {"1": 1.0}, "b\n": {"2": 1.0}})
    config = SearchConfig(num_samples=8, branching=1, temperature=1.0, tau=0.5, enough=0.7)

    def found(worth_of_b: float) -> SearchResult:
        return search_adaptive(
            policy, [problem()], guide(lambda _, text: worth_of_b if text[0] == "b" else 0.9), config
        )[0]

    clear, unclear = found(0.1), found(0.9)
    assert len(clear.found) == 2 and clear.found[clear.pick("policy-weighted", "min", 3)].end.answer == "1"
    assert len(unclear.found) > 2
    assert (
        len(found(0.6).found) == 2
    )  # 1.2 * .9 ** 3 of that and .8 * .6 ** 3; of the plain scores it would be .69


def test_a_trees_vote_weighs_leaves_by_what_the_policy_gives_them_and_sharpens_scores() -> None:
    policy = ScriptedPolicy({"": {"a\n": 0.8, "b\n": 0.2}, "a\n": {"1": 1.0}, "b\n": {"2": 0.5, "3": 0.5}})
    config = SearchConfig(num_samples=4, branching=1, tau=0.4)
    (result,) = search_tree(
        policy, [problem()], guide(lambda _, text: 0.4 if text[0] == "a" else 0.5), config
    )
    assert {item.end.answer: item.weight for item in result.found} == pytest.approx(
        {"1": 2.4, "2": 0.3, "3": 0.3}
    )
    answers = {
        choose: result.answers[result.pick(choose, "min", 3)] for choose in ("best", "policy-weighted")
    }
    assert answers == {"best": "2", "policy-weighted": "1"}  # 2.4 * .4 ** 3 against .3 * .5 ** 3
    assert result.answers[result.pick("policy-weighted", "min", 20)] == "2"
    (read,) = [SearchResult.from_row(json.loads(json.dumps(result.to_row())))]
    assert read == result


def test_a_line_ends_with_its_break_and_blank_lines_end_nothing() -> None:
    assert line_end(["a", "b", "\n", "c"], 0) == 3
    assert line_end(["\n", "\n", "a", "\n\n", "b"], 0) == 4
    assert line_end(["a\nb", "\n"], 1, torn="b") == 2
    assert line_end(["a\n", "\n", "b"], 1) is None
    assert (
        complete_steps("a\n\nb") == ("a\n\n",)
        and complete_steps("a\nb\n") == ("a\n", "b\n")
        and complete_steps("a") == ()
    )


def test_a_token_that_begins_the_next_line_is_read_with_that_line() -> None:
    policy = ScriptedPolicy({"": {"a": 1.0}, "a": {"\nb": 1.0}, "a\nb": {"\n": 1.0}, "a\nb\n": {"1": 1.0}})
    worth = guide(random_worth)
    (result,) = search_beams(
        policy, [problem()], worth, SearchConfig(num_samples=1, branching=1, chunk_tokens=1)
    )
    batches = worth.scorer.batches  # type: ignore[attr-defined]
    assert [batch for batch in batches if batch] == [
        [("a\n",)],
        [("a\n", "b\n")],
        [("a\n", "b\n", "1")],
    ]
    assert result.found[0].end.answer == "1"


def test_limits_of_tokens_and_of_steps_end_a_search() -> None:
    endless = ScriptedPolicy(
        lambda question, text: {"a": 1.0} if text.endswith("\n") or not text else {"\n": 1.0}, name="endless"
    )
    config = SearchConfig(num_samples=2, branching=2, max_tokens=7, chunk_tokens=4)
    (result,) = search_beams(endless, [problem()], guide(random_worth), config)
    assert [(item.steps, item.num_tokens, item.is_finished) for item in result.found] == [
        (("a\n", "a\n", "a\n", "a"), 7, False)
    ]
    (result,) = search_beams(endless, [problem()], guide(random_worth), replace(config, max_steps=2))
    assert [(item.steps, item.num_tokens) for item in result.found] == [(("a\n", "a\n"), 4)]


def test_only_a_prm_of_lines_guides_step_by_step() -> None:
    whole = Guide(ScriptedScorer(random_worth), PRMFormat(segmentation="solution"))
    with pytest.raises(ValueError, match="reads solution steps: choose best-of-n, vote or majority"):
        search_beams(random_policy(0), PROBLEMS, whole, SMALL)
    (result,) = search_samples(random_policy(0), PROBLEMS[:1], whole, SMALL)
    assert {len(item.scores) for item in result.found} == {1}


@pytest.mark.parametrize("scores", [[[0.5]], [[0.5], [1.5]], [[0.5], [float("nan")]], [[0.5], [0.5, 0.5]]])
def test_scores_that_are_none_are_refused(scores: list[list[float]]) -> None:
    class Wrong:
        name = "wrong"

        def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
            return scores

    readings = Readings("?", (1,))
    drafts = [Draft((text,), (2,), (text,)) for text in "ab"]
    with pytest.raises(ValueError, match="scorer 'wrong'"):
        Guide(Wrong()).read([(readings, draft) for draft in drafts])


# tokens


def test_tokens_are_counted_as_by_hand() -> None:
    """A prompt of 2 tokens, lines of 2, two rounds and an end; one beam, two continuations, chunks of 3."""
    policy = ScriptedPolicy(
        {"": {"a": 1.0}, "a": {"\n": 1.0}, "a\n": {"b": 1.0}, "a\nb": {"\n": 1.0}, "a\nb\n": {"<end>": 1.0}}
    )
    worth = guide(lambda *_: 0.5)
    (result,) = search_beams(
        policy, [problem()], worth, SearchConfig(num_samples=2, branching=2, chunk_tokens=3)
    )
    # round 1: two requests of the prompt, 3 tokens each, "b" after the cut; of equal beams the first is kept
    # round 2: the first continuation begins with the tail and asks for 3 tokens, gets 2; the second gets 3
    # round 3: the first has its end in its tail; the second asks for 3 tokens and gets 1
    assert [request.prefix_ids[2:] for request in policy.requests] == [
        policy.encode(text) for text in ("", "", "a\nb", "a\n", "a\nb\n")
    ]
    assert result.tokens == SearchTokens(
        sampled=3 + 3 + 2 + 3 + 1,
        prompt=2,
        prefixes=2 + 2 + 5 + 4 + 6,
        read=(2 + 3) + (2 + 3 + 3),  # a step is two tokens and its tag; the end alone adds nothing to read
        read_once=2 + 3 + 3,
    )
    tokens = result.tokens
    assert (tokens.policy(), tokens.policy(has_reuse=False), tokens.prm(), tokens.prm(has_reuse=False)) == (
        14,
        31,
        8,
        13,
    )
    assert (tokens.total(), tokens.total(0.5), tokens.total(2.0, has_reuse=False)) == (22, 18, 57)


def test_prefixes_that_are_read_once_are_those_of_a_set() -> None:
    rng = random.Random(0)
    read = [tuple(rng.choices((1, 2), k=rng.randint(1, 6))) for _ in range(12)]
    readings = Readings("?", (), {}, read)
    assert (
        readings.num_read_once
        == len({ids[:end] for ids in read for end in range(1, len(ids) + 1)})
        < readings.num_read
    )


def test_samples_cost_what_they_have_and_share_what_they_share() -> None:
    policy = ScriptedPolicy({"": {"a\n": 1.0}, "a\n": {"1": 0.5, "2": 0.5}})
    (result,) = search_samples(
        policy,
        [problem()],
        guide(lambda *_: 0.5),
        SearchConfig(num_samples=8, branching=1, temperature=1.0),
    )
    assert {"".join(item.steps) for item in result.found} == {"a\n1", "a\n2"}
    assert result.tokens == SearchTokens(
        sampled=8 * 3, prompt=2, prefixes=8 * 2, read=2 * (2 + 2 + 2), read_once=2 + 2 + 2 * 2
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_reuse_never_costs_more_and_every_sampled_token_counts(search: Any) -> None:
    policy = random_policy(6)
    results = search(policy, PROBLEMS, guide(random_worth), SMALL)
    for result in results:
        tokens = result.tokens
        assert tokens.policy() <= tokens.policy(has_reuse=False) and tokens.prm() <= tokens.prm(
            has_reuse=False
        )
    assert sum(result.tokens.prefixes for result in results) == sum(
        len(request.prefix_ids) for request in policy.requests
    )
    assert sum(result.tokens.sampled for result in results) == sum(
        len(item) for item in policy.generate(list(policy.requests))
    )


@pytest.mark.parametrize("search", [search_beams, search_subtrees])
def test_a_round_asks_the_prm_once_and_no_text_twice(search: Any) -> None:
    policy, num_alone = random_policy(7), []
    for item in PROBLEMS:
        worth = guide(random_worth)
        search(policy, [item], worth, SMALL)
        batches = worth.scorer.batches  # type: ignore[attr-defined]
        read = [steps for batch in batches for steps in batch]
        assert len(read) == len(set(read))
        num_alone.append(len(batches))
    together = guide(random_worth)
    search(policy, PROBLEMS, together, SMALL)
    assert max(num_alone) <= len(together.scorer.batches) < sum(num_alone) / 2  # type: ignore[attr-defined]


# runs


def run(
    out: Path,
    methods: Sequence[Any],
    policy: ScriptedPolicy,
    config: SearchConfig = SMALL,
    executor: LocalExecutor = QUIET,
) -> Any:
    return run_search(PROBLEMS, policy, guide(random_worth), out, methods, config, executor)


def test_methods_of_one_search_share_its_rows_and_are_compared_problem_by_problem(tmp_path: Path) -> None:
    reports, num_failed = run(tmp_path, tuple(METHODS), random_policy(0))
    assert num_failed == 0 and [report.method for report in reports] == list(METHODS)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len(METHODS) * len(PROBLEMS)
    with Run.read(tmp_path) as done:
        assert (
            done.num_rows == len({method.search for method in METHODS.values()}) * len(PROBLEMS)
            and done.is_finished
        )
        results = [SearchResult.from_row(row) for row in done.rows()]
        assert json.loads(json.dumps([result.to_row() for result in results])) == list(done.rows())
    for report in reports:
        right = [row["is_correct"] for row in rows if row["method"] == report.method]
        first = [row["is_correct"] for row in rows if row["method"] == "best-of-n"]
        assert report.accuracy.mean == pytest.approx(sum(right) / len(right))
        if report.difference:
            assert report.difference.mean == pytest.approx((sum(right) - sum(first)) / len(right))
        assert report.total_tokens == report.policy_tokens + report.prm_tokens
    assert [
        item["method"] for item in json.loads((tmp_path / "results.json").read_text())["methods"]
    ] == list(METHODS)


def test_a_run_picks_by_the_sharpness_that_it_is_told(tmp_path: Path) -> None:
    policy = ScriptedPolicy({"": {"a\n": 0.8, "b\n": 0.2}, "a\n": {"1": 1.0}, "b\n": {"2": 1.0}})
    worth = guide(lambda _, text: 0.4 if text[0] == "a" else 0.5)
    picked = {}
    for sharpness in (0.0, 3.0, 20.0):
        config = SearchConfig(num_samples=2, branching=1, tau=0.4, sharpness=sharpness)
        run_search(
            [problem()], policy, worth, tmp_path / str(sharpness), ("tree-vote", "tree"), config, QUIET
        )
        rows = [
            json.loads(line)
            for line in (tmp_path / str(sharpness) / "results.jsonl").read_text().splitlines()
        ]
        picked[sharpness] = [row["answer"] for row in rows]
    assert picked == {0.0: ["1", "2"], 3.0: ["1", "2"], 20.0: ["2", "2"]}
    with pytest.raises(ValueError, match="sharpness must be at least 0; -1 was given"):
        SearchConfig(sharpness=-1)


def test_a_search_that_is_stopped_anywhere_goes_on_and_ends_alike(tmp_path: Path) -> None:
    class Killed(ScriptedScorer):
        def __init__(self, num_calls: int) -> None:
            super().__init__(random_worth)
            self.num_left = num_calls

        def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
            self.num_left -= 1
            if self.num_left < 0:
                raise KeyboardInterrupt
            return super().score(questions, steps)

    methods: Any = ("beam", "vote", "dvts")
    run(tmp_path / "whole", methods, random_policy(0))
    policy, num_calls = random_policy(0), 0
    while not (tmp_path / "torn" / "manifest.json").exists():
        num_calls += 7
        try:
            run_search(PROBLEMS, policy, Guide(Killed(num_calls)), tmp_path / "torn", methods, SMALL, QUIET)
        except KeyboardInterrupt:
            continue
    assert num_calls > 7
    for name in ("journal.jsonl", "results.jsonl", "results.json"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = random_policy(0)
    run(tmp_path / "torn", methods, again)
    assert again.requests == []


def test_a_failed_problem_is_owed_and_nothing_is_reported(tmp_path: Path) -> None:
    def failing(question: str, text: str) -> float:
        if question == "question 3":
            raise RuntimeError("the PRM is gone")
        return random_worth(question, text)

    reports, num_failed = run_search(
        PROBLEMS, random_policy(0), guide(failing), tmp_path, ["beam"], SMALL, QUIET
    )
    assert (reports, num_failed) == ([], 2) and not (tmp_path / "results.json").exists()
    reports, num_failed = run(tmp_path, ["beam"], random_policy(0))
    assert num_failed == 0 and reports[0].accuracy.num_problems == len(PROBLEMS)


def test_a_run_is_of_one_configuration_and_takes_further_methods(tmp_path: Path) -> None:
    run(tmp_path, ["beam"], random_policy(0))
    policy = random_policy(0)
    assert [report.method for report in run(tmp_path, ["beam-vote", "beam"], policy)[0]] == [
        "beam-vote",
        "beam",
    ]
    assert policy.requests == []
    with pytest.raises(ConfigDiffers, match=r"inference.branching: 2 there, 4 here"):
        run(tmp_path, ["beam"], random_policy(0), replace(SMALL, branching=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 6, "branching": 4}, "multiple of branching; 6 and 4"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"aggregate": "median"}, "aggregate 'median' is unknown; choose from last, min, prod, mean"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**changes)


def test_unknown_methods_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="methods beem are unknown; choose from best-of-n, vote"):
        run(tmp_path / "run", ["beem"], random_policy(0))
    assert not (tmp_path / "run").exists()


# the page


def test_the_example_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = (
        (ROOT / "docs" / "how-to" / "search.md").read_text().split("## In Python")[1].split("\nprints\n")
    )
    exec(compile(textwrap.dedent(code), "docs/how-to/search.md", "exec"), {})
    assert capsys.readouterr().out.strip() == textwrap.dedent(printed).strip()


# the lab


@pytest.fixture(scope="module")
def lab_prm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random PRM with its own tokenizer; its scores mean nothing, but they are the same each time."""
    directory = tmp_path_factory.mktemp("prm")
    prm_format = PRMFormat(tag=";", max_length=512)
    make_model("qwen2", max_position_embeddings=512).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    prm_format.save(directory)
    return directory


@pytest.mark.slow
@pytest.mark.skipif(
    not (LAB_POLICY / "config.json").exists(), reason="the lab policy is not part of this installation"
)
def test_the_lab_policy_is_searched_and_the_prm_s_tokens_are_its_own(lab_prm: Path) -> None:
    policy, prm = load_policy("lab", device="cpu"), TaggedPRM.load(lab_prm, "cpu")
    items = load_problems("lab:test?num=3")
    exact = LoadedPRM(str(lab_prm), FamilyConfig(), "cpu").guide()
    config = SearchConfig(num_samples=4, branching=2, max_tokens=128)
    for search in SEARCHES:
        results = search(policy, items, exact, config)
        assert all(item.is_finished for result in results for item in result.found)
        for result in results:
            read = {item.steps for item in result.found}
            assert result.tokens.read >= sum(prm.num_tokens(result.problem.question, steps) for steps in read)
            for item in result.found:
                (alone,) = prm.score([result.problem.question], [item.steps])
                assert item.scores == pytest.approx(alone, abs=1e-5)


@pytest.mark.filterwarnings("error")
def test_other_processes_get_a_prm_of_their_own_and_the_same_one(lab_prm: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(lab_prm, tmp_path / "prm")
    policy, prm = (
        ScriptedPolicy({"": {"a\n": 0.5, "b\n": 0.5}}),
        LoadedPRM(str(directory), FamilyConfig(), "cpu"),
    )
    work = SearchWork(policy, PROBLEMS, "beam", prm.guide(), SMALL)
    with Run.open(tmp_path / "run", "search", {}) as run:
        parcel = parcel_of(run, work, 2)
    assert parcel is not None
    there = pickle.loads(parcel)
    assert there.keys == work.keys and there.perform([0, 1]) == work.perform([0, 1])
    parcel = pickle.dumps(prm)
    make_model("qwen2", seed=1, max_position_embeddings=512).save_pretrained(directory)
    with pytest.raises(ValueError, match="start again with one PRM"):
        pickle.loads(parcel)


@pytest.mark.skipif(
    not (LAB_POLICY / "config.json").exists(), reason="the lab policy is not part of this installation"
)
def test_the_command_of_the_page_runs(
    lab_prm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "how-to" / "search.md").read_text()
    (line,) = re.findall(r"^    forkpoint (search .*)$", page.replace("\\\n", ""), re.MULTILINE)
    arguments = shlex.split(line.replace("PRM", str(lab_prm)).replace("OUT", str(tmp_path / "out")))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    assert all(method in shown.out for method in ("best-of-n", "vote", "beam", "dvts"))
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 4 * 4
