"""OmegaPRM's search: the paper's figure, choices by hand, and bisection against exhaustive evaluation."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.labels.omega import OmegaSearch, exploration, rollout_value
from forkpoint.labels.omega_records import BisectConfig, GradedPath, Need, Node
from forkpoint.records import Rollout

Fed = list[tuple[list[Need], list[list[Rollout]]]]
NEWLINE, STRADDLER, END = 100, 98, 101


def lines(letters: str, is_correct: bool) -> Rollout:
    """One token and one step per letter."""
    return Rollout(tuple(map(ord, letters)), tuple(letter + "\n" for letter in letters), is_correct)


def prefix_of(need_or_node: Need | Node) -> str:
    return "".join(map(chr, need_or_node.prefix_ids))


def scripted(config: BisectConfig, script: dict[str, list[Rollout]]) -> OmegaSearch:
    """The search after all its needs that the script can answer."""
    search = OmegaSearch(config)
    while needs := search.needs():
        if any(prefix_of(need) not in script for need in needs):
            break
        search.feed([script[prefix_of(need)] for need in needs])
    return search


@dataclass(frozen=True)
class World:
    """A policy whose tokens tell right from wrong: an odd word is an error.

    Every rollout depends on seed, prefix and number alone. Rollout 0 makes no error of its own, so a prefix
    without an error always has a right rollout, and one with an error never has: values are monotone. In a
    `chaotic` world grades are random instead.
    """

    seed: int
    num_steps: int = 9
    num_words: int = 40
    """The fewer, the more often rollouts share a prefix."""
    chaotic: bool = False

    def rollouts(self, need: Need) -> list[Rollout]:
        return [self._rollout(need.prefix_ids, idx) for idx in range(need.num_rollouts)]

    def is_solvable(self, prefix_ids: tuple[int, ...], num_rollouts: int) -> bool:
        return any(rollout.is_correct for rollout in self.rollouts(Need(prefix_ids, (), num_rollouts)))

    def _rollout(self, prefix_ids: tuple[int, ...], idx: int) -> Rollout:
        rng = random.Random(f"{self.seed}/{prefix_ids}/{idx}")
        ids: list[int] = []
        for _ in range(rng.randrange(self.num_steps + 1)):
            ids += [
                2 * rng.randrange(self.num_words) + (idx > 0 and rng.random() < 0.2)
                for _ in range(rng.randint(1, 1 + self.num_words // 10))
            ]
            ids += rng.choice([[NEWLINE], [NEWLINE], [NEWLINE, NEWLINE], [STRADDLER], []])
        ids += [END] * rng.randrange(2)
        is_right = all(token_id % 2 == 0 for token_id in (*prefix_ids, *ids) if token_id < NEWLINE)
        return Rollout(
            tuple(ids), tuple(map(self._text, ids)), rng.random() < 0.5 if self.chaotic else is_right
        )

    def _text(self, token_id: int) -> str:
        return {NEWLINE: "\n", STRADDLER: "x\n\ny\nz", END: ""}.get(token_id, f" w{token_id}")


def explored(world: World, config: BisectConfig) -> tuple[OmegaSearch, Fed]:
    search, fed = OmegaSearch(config), []
    while needs := search.needs():
        answers = [world.rollouts(need) for need in needs]
        fed.append((needs, answers))
        search.feed(answers)
    return search, fed


configs = st.builds(
    BisectConfig,
    num_rollouts=st.integers(2, 6),
    max_searches=st.integers(0, 12),
    c_puct=st.sampled_from([0.0, 0.125, 1.0]),
    segmentation=st.sampled_from(["newline", "even"]),
    num_pieces=st.integers(1, 16),
)
monotone_worlds = st.builds(World, st.integers(0, 10_000), st.integers(0, 20), st.integers(1, 40))
worlds = st.builds(World, st.integers(0, 10_000), st.integers(0, 20), st.integers(1, 40), st.booleans())


def searched(search: OmegaSearch) -> list[GradedPath]:
    return [path for path in search.paths() if path.first_error_idx is not None]


def test_figure_2b_of_the_paper_locates_step_7_of_8_in_three_evaluations() -> None:
    script = {
        "": [lines("abcdefgh", False), lines("x", True), lines("y", True), lines("z", True)],
        "abcd": [lines("r", True), lines("s", False), lines("t", False), lines("u", False)],
        "abcdef": [lines("r", True), lines("s", True), lines("t", False), lines("u", False)],
        "abcdefg": [lines("r", False), lines("s", False), lines("t", False), lines("u", False)],
    }
    search = scripted(BisectConfig(num_rollouts=4, max_searches=1), script)
    assert search.needs() == []
    assert [(prefix_of(node), node.value, node.parent_idx) for node in search.nodes] == [
        ("", 0.75, None),
        ("abcd", 0.25, 0),
        ("abcdef", 0.5, 1),
        ("abcdefg", 0.0, 2),
    ]
    (found,) = search.searches
    assert (found.first_error_idx, found.midpoint_idxs, found.num_evaluated) == (6, (1, 2, 3), 3)


@given(monotone_worlds, configs)
def test_where_values_are_monotone_the_found_error_is_that_of_exhaustive_evaluation(
    world: World, config: BisectConfig
) -> None:
    search, _ = explored(world, config)
    for path in searched(search):
        solvable = [
            world.is_solvable(path.token_ids[:end], config.num_rollouts) for end in path.step_ends[:-1]
        ] + [path.is_correct]
        assert path.first_error_idx == solvable.index(False)
        assert path.first_error_labels() == tuple(solvable)
        assert path.is_monotone


@given(worlds, configs)
def test_the_found_error_always_lies_between_a_prefix_with_a_right_rollout_and_one_without(
    world: World, config: BisectConfig
) -> None:
    search, _ = explored(world, config)
    for path in searched(search):
        assert path.first_error_idx is not None
        before = search.outcomes(path.token_ids[: ([0, *path.step_ends])[path.first_error_idx]])
        assert before is not None
        assert any(before)
        is_twin = path.outcomes[-1] == (
            True,
        )  # a chaotic world may judge equal rollouts differently; the wrong one was searched
        assert is_twin or not any(path.outcomes[path.first_error_idx] or [True])


@given(worlds, configs)
def test_a_search_of_n_steps_evaluates_at_most_log2_n_prefixes(world: World, config: BisectConfig) -> None:
    search, fed = explored(world, config)
    path_of = {(path.node_idx, path.rollout_idx): path for path in search.paths()}
    for found in search.searches:
        num_steps = len(path_of[found.node_idx, found.rollout_idx].step_ends) - len(
            search.nodes[found.node_idx].step_ends
        )
        assert found.num_evaluated <= len(found.midpoint_idxs) <= math.ceil(math.log2(num_steps))
    assert 1 + sum(found.num_evaluated for found in search.searches) == len(search.nodes) == len(fed)


@given(worlds, configs)
def test_no_prefix_is_wanted_twice(world: World, config: BisectConfig) -> None:
    _, fed = explored(world, config)
    wanted = [need.prefix_ids for needs, _ in fed for need in needs]
    assert len(set(wanted)) == len(wanted)


@given(worlds, configs)
def test_feeding_the_recorded_rollouts_again_rebuilds_the_search_at_every_point(
    world: World, config: BisectConfig
) -> None:
    search, fed = explored(world, config)
    again = OmegaSearch(config)
    for needs, answers in fed:
        assert again.needs() == needs == again.needs()
        again.feed(answers)
    assert again.needs() == []
    assert (again.nodes, again.searches, again.paths()) == (search.nodes, search.searches, search.paths())


@given(worlds, configs)
def test_the_tree_is_a_tree_of_prefixes_whose_inner_nodes_have_right_rollouts(
    world: World, config: BisectConfig
) -> None:
    search, _ = explored(world, config)
    for node_idx, node in enumerate(search.nodes):
        assert search.outcomes(node.prefix_ids) == node.outcomes
        assert (node.step_ends or (0,))[-1] == len(node.prefix_ids) == len(node.prefix_texts)
        if node.parent_idx is None:
            assert node_idx == 0
            continue
        parent = search.nodes[node.parent_idx]
        assert node.parent_idx < node_idx
        assert len(parent.prefix_ids) < len(node.prefix_ids)
        assert node.prefix_ids[: len(parent.prefix_ids)] == parent.prefix_ids
        assert parent.value > 0


@given(worlds, configs)
def test_visits_count_selections_and_each_wrong_rollout_is_selected_once(
    world: World, config: BisectConfig
) -> None:
    search, _ = explored(world, config)
    assert sum(node.num_visits for node in search.nodes) == len(search.searches) <= config.max_searches
    chosen = [
        (found.node_idx, search.nodes[found.node_idx].rollouts[found.rollout_idx])
        for found in search.searches
    ]
    assert len(set(chosen)) == len(chosen)
    assert not any(rollout.is_correct for _, rollout in chosen)
    assert all(0 < search.nodes[node_idx].value < 1 for node_idx, _ in chosen)
    if len(chosen) < config.max_searches:
        left = {
            (idx, rollout)
            for idx, node in enumerate(search.nodes)
            if 0 < node.value < 1
            for rollout in node.rollouts
        }
        assert {
            (idx, rollout) for idx, rollout in left if not rollout.is_correct and any(rollout.token_texts)
        } == set(chosen)


@given(worlds, configs)
def test_the_steps_of_a_path_joined_are_its_text_and_its_end_is_graded_by_its_answer(
    world: World, config: BisectConfig
) -> None:
    search, fed = explored(world, config)
    paths = search.paths()
    assert len(paths) == sum(len(answer) for _, answers in fed for answer in answers)
    for path in paths:
        node = search.nodes[path.node_idx]
        rollout = node.rollouts[path.rollout_idx]
        assert "".join(path.steps) == "".join(path.token_texts)
        assert all(path.steps) or path.steps == ("",)
        assert path.step_ends[-1] == len(path.token_ids)
        assert path.outcomes[-1] == (rollout.is_correct,)
        assert path.outcomes[:-1] == tuple(
            search.outcomes(path.token_ids[:end]) for end in path.step_ends[:-1]
        )
        if any(rollout.token_texts) and node.step_ends:
            assert path.outcomes[len(node.step_ends) - 1] == node.outcomes


@given(worlds, configs)
def test_a_smaller_budget_is_a_prefix_of_the_same_search(world: World, config: BisectConfig) -> None:
    _, fed = explored(world, config)
    _, fed_half = explored(world, dataclasses.replace(config, max_searches=config.max_searches // 2))
    assert fed[: len(fed_half)] == fed_half


LONG = "".join(chr(0x4E00 + idx) for idx in range(20))
SELECTION_SCRIPT = {
    "": [lines("abcdefghij", False), lines(LONG, False), lines("k", True), lines("l", True)],
    "abcde": [lines("m", True), lines(LONG, False), lines(LONG * 2, False), lines(LONG * 3, False)],
    "abcdefg": [lines("n", False)] * 4,
    "abcdef": [lines("o", False)] * 4,
}


def test_the_values_of_equations_2_and_3_by_hand() -> None:
    config = BisectConfig(length_scale=10)
    assert rollout_value(0.5, 10, config) == pytest.approx(0.636396)  # sqrt(.5) * .9
    assert rollout_value(0.5, 20, config) == pytest.approx(0.572756)  # sqrt(.5) * .81
    assert rollout_value(0.25, 20, config) == pytest.approx(0.481629)  # .5 ** .75 * .81
    assert rollout_value(1.0, 0, config) == 1.0
    assert exploration(0, 0, config) == 0.0
    assert exploration(1, 1, config) == 0.0625
    assert exploration(0, 1, config) == 0.125
    assert exploration(2, 9, config) == 0.125


@pytest.mark.parametrize(
    ("c_puct", "node_idx"),
    [
        (0.125, 0),  # root: .5728 + .125 * 1 / 2 = .6353; abcde: .4816 + .125 * 1 / 1 = .6066
        (0.25, 1),  # root: .5728 + .25 * 1 / 2 = .6978; abcde: .4816 + .25 * 1 / 1 = .7316
    ],
)
def test_selection_weighs_value_and_visits_as_computed_by_hand(c_puct: float, node_idx: int) -> None:
    search = scripted(BisectConfig(num_rollouts=4, length_scale=10, c_puct=c_puct), SELECTION_SCRIPT)
    assert search.searches[0].rollout_idx == 0  # of the root's two, the shorter one: .6364 against .5728
    assert search.searches[0].first_error_idx == 5
    assert [node.num_visits for node in search.nodes] == ([2, 0, 0, 0] if node_idx == 0 else [1, 1, 0, 0])
    assert [prefix_of(need) for need in search.needs()] == [
        LONG[:10] if node_idx == 0 else "abcde" + LONG[:10]
    ]


def test_equal_priorities_go_to_the_rollout_that_joined_first() -> None:
    config = BisectConfig(num_rollouts=3, alpha=1.0, beta=1.0, c_puct=0.0)
    script = {
        "": [lines("ab", False), lines("cd", False), lines("x", True)],
        "a": [lines("e", False), lines("f", False), lines("g", True)],
        "c": [lines("h", False)] * 3,
    }
    search = scripted(config, script)
    assert [(found.node_idx, found.rollout_idx) for found in search.searches] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_a_known_prefix_is_consulted_and_not_rolled_out_again() -> None:
    script = {
        "": [lines("abcd", False), lines("abef", False), lines("x", True)],
        "ab": [lines("y", True), lines("z", True), lines("w", True)],
        "abc": [lines("y", False)] * 3,
        "abe": [lines("y", True)] * 3,
    }
    search = scripted(BisectConfig(num_rollouts=3), script)
    assert search.needs() == []
    assert [
        (found.midpoint_idxs, found.num_evaluated, found.first_error_idx) for found in search.searches
    ] == [
        ((1, 2), 2, 2),
        ((1, 3), 1, 3),
    ]


def test_a_prefix_beyond_the_error_keeps_its_evidence_and_hangs_from_the_last_good_one() -> None:
    script = {
        "": [lines("abcd", False), lines("x", True)],
        "ab": [lines("y", False), lines("z", False)],
        "a": [lines("y", True), lines("z", True)],
    }
    search = scripted(BisectConfig(num_rollouts=2), script)
    assert [(prefix_of(node), node.parent_idx) for node in search.nodes] == [("", None), ("ab", 0), ("a", 0)]
    path = search.paths()[0]
    assert path.outcomes == ((True, True), (False, False), None, (False,))
    assert path.first_error_labels() == (True, False, False, False)


@pytest.mark.parametrize("is_correct", [True, False])
def test_a_root_that_is_always_right_or_always_wrong_ends_the_search(is_correct: bool) -> None:
    search = scripted(BisectConfig(num_rollouts=3), {"": [lines("abc", is_correct)] * 3})
    assert search.needs() == []
    assert len(search.nodes) == 1
    assert search.searches == ()
    assert [path.outcomes for path in search.paths()] == [(None, None, (is_correct,))] * 3


def test_no_search_is_made_beyond_the_limit() -> None:
    script = {
        "": [lines("ab", False), lines("cd", False), lines("x", True)],
        "a": [lines("e", True)] * 3,
        "c": [lines("f", True)] * 3,
    }
    for max_searches, prefixes in [(0, [""]), (1, ["", "a"]), (2, ["", "a", "c"])]:
        search = scripted(BisectConfig(num_rollouts=3, max_searches=max_searches), script)
        assert search.needs() == []
        assert [prefix_of(node) for node in search.nodes] == prefixes
        assert len(search.searches) == max_searches


def test_the_error_of_a_one_step_rollout_is_that_step_and_costs_no_rollouts() -> None:
    search = scripted(BisectConfig(num_rollouts=2), {"": [lines("a", False), lines("b", True)]})
    assert search.needs() == []
    (found,) = search.searches
    assert (found.first_error_idx, found.midpoint_idxs, found.num_evaluated) == (0, (), 0)
    assert search.nodes[0].num_visits == 1


def test_a_rollout_sampled_twice_is_searched_once_and_both_know_the_error() -> None:
    search = scripted(
        BisectConfig(num_rollouts=3), {"": [lines("b", True), lines("a", False), lines("a", False)]}
    )
    assert [found.rollout_idx for found in search.searches] == [1]
    assert [path.first_error_idx for path in search.paths()] == [None, 0, 0]


def test_a_rollout_without_text_counts_but_is_never_searched() -> None:
    end, nothing = Rollout((END,), ("",), False), Rollout((), (), False)
    script = {
        "": [lines("ab", False), lines("c", True), end, nothing],
        "a": [lines("d", True), lines("e", True), end, nothing],
    }
    search = scripted(BisectConfig(num_rollouts=4), script)
    assert [node.value for node in search.nodes] == [0.25, 0.5]
    assert [(found.node_idx, found.rollout_idx) for found in search.searches] == [(0, 0)]
    assert [path.steps for path in search.paths()] == [
        ("a\n", "b\n"),
        ("c\n",),
        ("",),
        ("",),
        ("a\n", "d\n"),
        ("a\n", "e\n"),
        ("a\n",),
        ("a\n",),
    ]


def test_a_blank_line_at_the_start_of_a_rollout_is_no_step() -> None:
    script = {
        "": [lines("ab", False), lines("x", True)],
        "a": [Rollout((1, 2, 3), ("\n", "c", "\n"), False), lines("y", True)],
    }
    search = scripted(BisectConfig(num_rollouts=2), script)
    assert search.needs() == []
    assert search.paths()[2].steps == ("a\n", "\nc\n")
    assert search.paths()[2].first_error_idx == 1


def test_even_cuts_divide_an_average_solution_into_the_pieces_asked_for() -> None:
    letters = "abcdefghijkl"
    flat = [
        dataclasses.replace(lines(word, word == "ab"), token_texts=tuple(word))
        for word in (letters, letters[:10], "ab")
    ]
    search = OmegaSearch(BisectConfig(num_rollouts=3, segmentation="even", num_pieces=4))
    search.feed([flat])  # 8 tokens on average, so pieces of 2
    assert [path.step_ends for path in search.paths()] == [(2, 4, 6, 8, 10, 12), (2, 4, 6, 8, 10), (2,)]
    assert [prefix_of(need) for need in search.needs()] == [
        "abcd"
    ]  # the shorter one first; 5 pieces, cut after 2


def test_only_evaluated_prefixes_have_outcomes() -> None:
    script = {
        "": [lines("abc", False), *[lines("x", True)] * 3],
        "a": [lines("y", True), *[lines("z", False)] * 3],
    }
    search = scripted(BisectConfig(num_rollouts=4), script)
    assert search.paths()[0].outcomes == ((True, False, False, False), None, (False,))
    assert search.outcomes(lines("a", False).token_ids) == (True, False, False, False)
    assert search.outcomes(lines("ab", False).token_ids) is None


def test_first_error_labels_are_refused_where_no_search_was_made() -> None:
    search = scripted(BisectConfig(num_rollouts=2), {"": [lines("ab", False), lines("x", True)]})
    with pytest.raises(ValueError, match="rollout 1 of node 0 was not searched"):
        search.paths()[1].first_error_labels()


def test_evidence_against_monotone_values_is_told() -> None:
    script = {
        "": [lines("abcd", False), lines("x", True), lines("abcy", True)],
        "ab": [lines("u", False)] * 3,
        "a": [lines("v", True)] * 3,
    }
    paths = scripted(BisectConfig(num_rollouts=3), script).paths()
    assert paths[0].is_monotone
    assert paths[2].outcomes == ((True, True, True), (False, False, False), None, (True,))
    assert not paths[2].is_monotone


@pytest.mark.parametrize(
    ("rollouts", "message"),
    [
        ([], "1 prefixes are wanted and answers for 0 were given"),
        ([[lines("a", True)] * 2] * 2, "1 prefixes are wanted and answers for 2 were given"),
        ([[lines("a", True)]], "2 rollouts of a prefix are wanted; 1 were given"),
        ([[lines("a", True)] * 3], "2 rollouts of a prefix are wanted; 3 were given"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused_and_changes_nothing(
    rollouts: Sequence[Sequence[Rollout]], message: str
) -> None:
    search = OmegaSearch(BisectConfig(num_rollouts=2))
    with pytest.raises(ValueError, match=message):
        search.feed(rollouts)
    assert search.nodes == ()
    assert search.needs() == [Need((), (), 2)]


def test_a_finished_search_takes_nothing_more() -> None:
    search = scripted(BisectConfig(num_rollouts=2), {"": [lines("a", True)] * 2})
    search.feed([])
    with pytest.raises(ValueError, match="0 prefixes are wanted and answers for 1 were given"):
        search.feed([[lines("a", True)] * 2])


def test_a_rollout_has_one_text_per_token() -> None:
    with pytest.raises(ValueError, match="2 tokens and 1 texts were given"):
        Rollout((1, 2), ("a",), True)


@pytest.mark.parametrize(
    ("field", "given_value"),
    [
        ("num_rollouts", 1),
        ("max_searches", -1),
        ("length_scale", 0),
        ("num_pieces", 0),
        ("alpha", 0.0),
        ("beta", 1.1),
        ("c_puct", -0.1),
        ("c_puct", math.nan),
        ("segmentation", "entropy"),
    ],
)
def test_settings_out_of_range_are_named(field: str, given_value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        BisectConfig(**{field: given_value})


def test_the_defaults_are_the_papers() -> None:
    config = BisectConfig()
    assert (config.num_rollouts, config.max_searches, config.alpha, config.beta) == (8, 100, 0.5, 0.9)
    assert (config.length_scale, config.c_puct, config.num_pieces) == (500, 0.125, 16)
