"""Steered trees: pruning and choosing agree with hand computation, whatever the batches and budgets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from checkpoints import make_checkpoint
from forkpoint.policies import ScriptedPolicy, load_policy
from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.records import Policy, Problem, ScoringCost, Tree
from forkpoint.steps import AnchorRule
from forkpoint.trees.frontier import ORDERS
from forkpoint.trees.grow import TreeConfig, grow_trees
from forkpoint.trees.puct import puct
from forkpoint.trees.steer import SteeredTree, Steering, SteeringConfig, confidence, steer_trees

PAIRS = {"": "ab", "a": "cd", "b": "ij", "ac": "ef", "ad": "gh", "bi": "kl", "bj": "mn"}


def lined(letters: str) -> str:
    """The first two letters are a line each, the third ends the text without one."""
    return "".join(letter + "\n" * (idx < 2) for idx, letter in enumerate(letters))


LINES = {
    lined(before): {after[0] + "\n" * (len(before) < 2): 0.6, after[1] + "\n" * (len(before) < 2): 0.4}
    for before, after in PAIRS.items()
}
"""A full binary tree of eight solutions of three lines, with .67 nats at each of the seven places to fork."""
LEAVES = ["ace", "acf", "adg", "adh", "bik", "bil", "bjm", "bjn"]
ALL = TreeConfig(tau=0.5, num_leaves=64)
PUCT = SteeringConfig(expand="mcts")


class ScriptedScorer:
    """A `Scorer` made by hand: `worth(question, text)` is the score of the step that ends the text."""

    name = "scripted"

    def __init__(self, worth: Callable[[str, str], float]) -> None:
        self._worth = worth
        self.batches: list[list[tuple[str, ...]]] = []

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        self.batches.append([tuple(its_steps) for its_steps in steps])
        return [
            [self._worth(question, "".join(its_steps[: idx + 1])) for idx in range(len(its_steps))]
            for question, its_steps in zip(questions, steps, strict=True)
        ]


def by_letters(table: dict[str, float], other: float = 0.5) -> ScriptedScorer:
    return ScriptedScorer(lambda _, text: table.get(text.replace("\n", ""), other))


def problem(question: str = "?", answer: str = "0") -> Problem:
    return Problem(question, question, answer)


def texts(policy: Policy, tree: Tree) -> list[str]:
    return [
        policy.decode(tree.path(leaf_idx).token_ids).replace("\n", "") for leaf_idx in range(tree.num_leaves)
    ]


def searched(
    search: SteeringConfig,
    scorer: ScriptedScorer | None = None,
    config: TreeConfig = ALL,
    script: Any = LINES,
    **options: Any,
) -> tuple[list[str], SteeredTree]:
    policy = ScriptedPolicy(script)
    (found,) = steer_trees(policy, [problem()], config, Steering(search, scorer, **options))
    return texts(policy, found.tree), found


def random_policy(seed: int) -> ScriptedPolicy:
    def script(question: str, text: str) -> dict[str, float]:
        rng = random.Random(f"{seed}/{question}/{text}")
        if rng.random() < 0.04 * len(text):
            return {"<end>": 1.0}
        weights = [rng.random() ** 3 + 1e-3 for _ in "abc\n"]
        return {token: weight / sum(weights) for token, weight in zip("abc\n", weights, strict=True)}

    return ScriptedPolicy(script, name=f"random-{seed}")


def random_worth(question: str, text: str) -> float:
    return random.Random(f"{question}/{text}").random()


PROBLEMS = [problem(f"question {idx}") for idx in range(12)]
SEARCHES = [
    SteeringConfig(prune_below=0.3),
    SteeringConfig(expand="mcts"),
    SteeringConfig(expand="mcts", prune_below=0.2, aggregate="mean", exploration=0.3, prior="uniform"),
    SteeringConfig(expand="mcts", value="confidence"),
    SteeringConfig(expand="mcts", value="confidence", prune_below=0.3, exploration=0.0),
]


# P-EDU


def test_no_fork_behind_a_low_step_is_expanded_and_so_none_of_its_children() -> None:
    leaves, found = searched(SteeringConfig(prune_below=0.2), by_letters({"a": 0.1, "ac": 0.9, "ace": 0.9}))
    assert leaves[0] == "ace"  # the greedy solution itself is always there
    assert set(leaves[1:]) == {"bik", "bil", "bjm", "bjn"}
    assert (
        found.num_pruned == 2
    )  # behind a and, although ac scores well, behind ac: what is pruned stays pruned


def test_the_step_that_a_fork_lies_in_does_not_count_against_it() -> None:
    leaves, found = searched(SteeringConfig(prune_below=0.2), by_letters({"ac": 0.1, "ace": 0.1}))
    assert "adg" in leaves and "acf" not in leaves
    assert (len(leaves), found.num_pruned) == (7, 1)


def test_a_score_at_the_threshold_is_not_below_it() -> None:
    assert searched(SteeringConfig(prune_below=0.5), by_letters({}, other=0.5))[1].num_pruned == 0


@pytest.mark.parametrize("order", ORDERS)
def test_threshold_0_is_the_plain_tree_and_calls_no_scorer(order: str) -> None:
    policy, config = random_policy(0), TreeConfig(tau=0.6, num_leaves=9, max_tokens=30, order=order)  # type: ignore[arg-type]
    scorer = ScriptedScorer(lambda *_: 0.0)
    found = steer_trees(policy, PROBLEMS, config, Steering(SteeringConfig(prune_below=0.0), scorer))
    plain = grow_trees(policy, [policy.encode_question(item.question) for item in PROBLEMS], config)
    assert [(item.tree, item.cost) for item in found] == plain
    assert not scorer.batches
    assert {(item.scoring, item.num_pruned) for item in found} == {(ScoringCost(), 0)}


def test_a_threshold_that_every_score_passes_is_the_plain_tree() -> None:
    policy = ScriptedPolicy(LINES)
    ((plain, _),) = grow_trees(policy, [policy.encode_question("?")], ALL)
    assert searched(SteeringConfig(prune_below=0.2), by_letters({}, other=0.2))[1].tree == plain


def test_a_threshold_above_1_leaves_only_the_root() -> None:
    for search in (SteeringConfig(prune_below=1.01), SteeringConfig(expand="mcts", prune_below=1.01)):
        leaves, found = searched(search, by_letters({}, other=1.0))
        assert (leaves, found.num_pruned, found.cost.requests) == (["ace"], 3, 1)


def test_an_anchor_in_the_first_step_has_nothing_against_it() -> None:
    leaves, found = searched(SteeringConfig(prune_below=1.0), by_letters({}, other=0.0))
    assert (leaves, found.num_pruned) == (["ace", "bik"], 4)


def test_entropy_steps_end_where_forks_begin() -> None:
    script = {before: {after[0]: 0.6, after[1]: 0.4} for before, after in PAIRS.items()}
    rule_format = PRMFormat(segmentation="entropy", rule=AnchorRule(tau=0.5))
    scorer = by_letters({"b": 0.1})
    leaves, found = searched(SteeringConfig(prune_below=0.2), scorer, script=script, prm_format=rule_format)
    assert leaves == ["ace", "bik", "adg", "acf", "adh"]
    assert scorer.batches[0] == [("a", "c")]  # the last anchor lies before e
    assert found.num_pruned == 2


def test_only_the_steps_before_the_last_anchor_are_read_and_counted() -> None:
    scorer = by_letters({"a": 0.1})
    _, found = searched(SteeringConfig(prune_below=0.2), scorer)
    # ace and bik have anchors after their two lines, bjm (from b's anchor) after its two;
    # bil and bjn have no anchor of their own
    assert sorted(batch[0] for batch in scorer.batches) == [("a\n", "c\n"), ("b\n", "i\n"), ("b\n", "j\n")]
    assert found.scoring == ScoringCost(3, 3 * (2 + 2 + 2))  # prompt, tokens, tags


def test_whole_leaves_are_read_where_leaves_are_valued_and_the_end_token_is_no_text() -> None:
    scorer = by_letters({})
    _, found = searched(PUCT, scorer)
    assert scorer.batches[0] == [("a\n", "c\n", "e")]
    assert found.scoring == ScoringCost(8, 8 * (2 + 3 + 3))


def test_tokens_are_counted_as_the_prm_reads_them_where_it_can_be_asked() -> None:
    _, found = searched(
        SteeringConfig(prune_below=0.2),
        by_letters({"a": 0.1}),
        count_tokens=lambda question, steps: 100 + len(steps),
    )
    assert found.scoring == ScoringCost(3, 306)
    assert found.num_tokens() == found.cost.sampled_tokens + 306
    assert found.num_tokens(prm_weight=0.5) == found.cost.sampled_tokens + 153


# MCTS-EDU

WORTH = {"a": 0.5, "ac": 0.7, "ace": 0.9, "acf": 0.3, "bik": 0.1, "b": 0.2, "bi": 0.2}


def test_puct_by_hand() -> None:
    assert puct(0.5, 0.25, 9, 2, 2.0) == pytest.approx(0.5 + 2 * 0.25 * 3 / 3)
    leaves, _ = searched(PUCT, by_letters(WORTH))
    # ace is worth .9. At the start the token taken has .9 + .6 / 2 = 1.2;
    # b, with no step before it, has .9 + .4 = 1.3: to b.
    # bik is worth .1. At the start .9 + .6 sqrt(2) / 2 = 1.32 against .1 + .4 sqrt(2) / 2 = .38: to a.
    # Behind a: .9 + .6 / 2 = 1.2 against .5 + .4 = .9: to c; behind ac only f is open.
    # acf is worth .3. At the start .6 + .6 sqrt(3) / 3 = .95 against .1 + .4 sqrt(3) / 2 = .45: to a;
    # after a only d is open.
    assert leaves[:4] == ["ace", "bik", "acf", "adg"]
    # with a worth .9 + ., d comes before f: 1.2 against .85 + .4 = 1.25
    assert searched(PUCT, by_letters({**WORTH, "a": 0.85}))[0][:3] == ["ace", "bik", "adg"]


def test_without_exploration_values_alone_decide() -> None:
    leaves, _ = searched(
        SteeringConfig(expand="mcts", exploration=0.0), by_letters({**WORTH, "adg": 0.4, "adh": 0.4})
    )
    assert leaves[:2] == [
        "ace",
        "bik",
    ]  # nothing is known of b before its first leaf: of equals that with fewer leaves
    assert set(leaves[2:5]) == {"acf", "adg", "adh"}  # all that is open under a, whose leaves are worth more
    assert sorted(leaves) == LEAVES


def test_with_huge_exploration_leaves_spread_evenly() -> None:
    search = SteeringConfig(expand="mcts", exploration=1e9, prior="uniform")
    leaves, _ = searched(search, by_letters(WORTH))
    assert {leaf[:1] for leaf in leaves[:2]} == {"a", "b"}
    assert {leaf[:2] for leaf in leaves[:4]} == {"ac", "ad", "bi", "bj"}
    for num_leaves in (2, 4, 6, 8):
        assert sum(leaf[0] == "a" for leaf in leaves[:num_leaves]) == num_leaves / 2


def test_the_policys_prior_draws_leaves_to_what_it_finds_probable() -> None:
    # "y" is as unsure as "x" further on, and their leaves are worth the same;
    # only the first choice is lopsided
    script = {"": {"x": 0.8, "y": 0.2}} | {
        first + more: {"0": 0.55, "1": 0.45}
        for first in "xy"
        for more in ("", *(f"{idx:b}" for idx in range(2)), "00", "01", "10", "11")
    }
    shares = {}
    for prior in ("policy", "uniform"):
        search = SteeringConfig(expand="mcts", exploration=100.0, prior=prior)
        leaves, _ = searched(search, by_letters({}), TreeConfig(tau=0.4, num_leaves=10), script)
        shares[prior] = sum(leaf[0] == "x" for leaf in leaves)
    assert shares["uniform"] == 5
    assert shares["policy"] > 5


def test_confidence_is_the_geometric_mean_of_token_probabilities() -> None:
    assert confidence([math.log(0.5), math.log(0.125)]) == 0.25
    assert confidence([]) == 1.0


def test_confidence_steers_without_a_scorer() -> None:
    search, config = SteeringConfig(expand="mcts", value="confidence", exploration=0.0), TreeConfig(tau=0.45)
    sure_of_b = {
        text: dict(zip(probs, (0.8, 0.2), strict=True)) if text.startswith("b") else probs
        for text, probs in LINES.items()
    }
    leaves, found = searched(search, config=config)
    assert leaves[:2] == ["ace", "bik"] and leaves[2][0] == "a"  # .6 .6 .6 against .4 .6 .6
    assert searched(search, config=config, script=sure_of_b)[0][2][0] == "b"  # .6 .6 .6 against .4 .8 .8
    assert found.scoring == ScoringCost()


def test_gold_outcomes_steer_only_where_they_are_asked_for() -> None:
    script = {"": {"1": 0.6, "2": 0.4}, "1": {"3": 0.6, "4": 0.4}, "2": {"5": 0.6, "6": 0.4}}
    policy, config = ScriptedPolicy(script), TreeConfig(tau=0.5, num_leaves=3)
    search = SteeringConfig(expand="mcts", value="outcome", exploration=0.1)
    leaves = [
        texts(policy, found.tree)
        for found in steer_trees(
            policy, [problem(answer="13"), problem(answer="25")], config, Steering(search)
        )
    ]
    assert leaves == [["13", "25", "14"], ["13", "25", "26"]]
    assert search.is_gold
    assert not any(
        item.is_gold
        for item in (
            SteeringConfig(value="outcome"),
            SteeringConfig(expand="mcts"),
            SteeringConfig(prune_below=0.2),
        )
    )


def test_every_choice_agrees_with_brute_force() -> None:
    policy, config = random_policy(3), TreeConfig(tau=0.6, num_leaves=12, max_tokens=12)
    num_choices = 0
    for exploration in (0.0, 0.4, 2.0):
        search = SteeringConfig(expand="mcts", exploration=exploration)
        for item, found in zip(
            PROBLEMS,
            steer_trees(policy, PROBLEMS, config, Steering(search, ScriptedScorer(random_worth))),
            strict=True,
        ):
            for num_leaves in range(1, found.tree.num_leaves):
                branch = found.tree.branches[num_leaves]
                expected = brute_force_choice(
                    policy,
                    item.question,
                    Tree(found.tree.prompt_ids, found.tree.branches[:num_leaves]),
                    config,
                    exploration,
                )
                assert found.tree.path(num_leaves).token_ids[: branch.fork + 1] == expected
                num_choices += 1
    assert num_choices > 200


def brute_force_choice(
    policy: ScriptedPolicy, question: str, tree: Tree, config: TreeConfig, exploration: float
) -> tuple[int, ...]:
    """The token path to fork next, from the leaves' token paths alone."""
    paths = [tree.path(idx) for idx in range(tree.num_leaves)]
    values = [round(random_worth(question, policy.decode(path.token_ids)), 6) for path in paths]
    anchors = [
        config.rule.anchors(path.entropies, config.rule.can_fork(policy.token_texts(path.token_ids)))
        for path in paths
    ]

    def below(prefix: tuple[int, ...]) -> list[int]:
        return [idx for idx, path in enumerate(paths) if path.token_ids[: len(prefix)] == prefix]

    forks = {
        (*path.token_ids[:position], path.runner_up_ids[position])
        for path, its_anchors in zip(paths, anchors, strict=True)
        for position in its_anchors
    }
    open_forks = {fork for fork in forks if not below(fork)}

    def score(prefix: tuple[int, ...], prior: float, default: float) -> tuple[float, int]:
        idxs = below(prefix)
        value = sum(values[idx] for idx in idxs) / len(idxs) if idxs else default
        return value + exploration * prior * math.sqrt(len(below(prefix[:-1]))) / (1 + len(idxs)), -len(idxs)

    prefix: tuple[int, ...] = ()
    while prefix not in open_forks:
        leaf_idx = below(prefix)[0]
        path = paths[leaf_idx]
        position = next(position for position in anchors[leaf_idx] if position >= len(prefix))
        taken, runner_up = (
            path.token_ids[: position + 1],
            (*path.token_ids[:position], path.runner_up_ids[position]),
        )
        is_open = [any(fork[: len(side)] == side for fork in open_forks) for side in (taken, runner_up)]
        taken_prob, runner_up_prob = (
            math.exp(path.logprobs[position]),
            math.exp(path.runner_up_logprobs[position]),
        )
        prior = round(runner_up_prob / (taken_prob + runner_up_prob), 6)
        lines = policy.decode(path.token_ids[:position])
        # a line is complete where the text goes on with something that is not white space: an anchor never is
        complete = lines[: lines.rstrip("\n").rfind("\n") + 1] if not lines.endswith("\n") else lines
        taken_score = score(taken, 1 - prior, 0.0)
        prefix_value = round(random_worth(question, complete), 6) if complete.strip("\n") else None
        default = (
            sum(values[idx] for idx in below(taken)) / len(below(taken))
            if prefix_value is None
            else prefix_value
        )
        prefers_taken = is_open[0] and (not is_open[1] or taken_score >= score(runner_up, prior, default))
        prefix = taken if prefers_taken else runner_up
    return prefix


# both


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_trees_and_costs_do_not_depend_on_what_grows_beside_them(search: SteeringConfig) -> None:
    policy, config = random_policy(1), TreeConfig(tau=0.6, num_leaves=9, max_tokens=30)
    together = steer_trees(policy, PROBLEMS, config, Steering(search, ScriptedScorer(random_worth)))
    assert together == [
        steer_trees(policy, [item], config, Steering(search, ScriptedScorer(random_worth)))[0]
        for item in PROBLEMS
    ]
    assert sum(found.tree.num_leaves for found in together) > 50


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_the_tree_of_a_smaller_budget_is_a_prefix(search: SteeringConfig) -> None:
    policy = random_policy(2)

    def grown(num_leaves: int) -> list[Tree]:
        config = TreeConfig(tau=0.6, num_leaves=num_leaves, max_tokens=30)
        return [
            found.tree
            for found in steer_trees(
                policy, PROBLEMS[:4], config, Steering(search, ScriptedScorer(random_worth))
            )
        ]

    full = grown(14)
    for num_leaves in range(1, 14):
        assert [tree.branches for tree in grown(num_leaves)] == [tree.branches[:num_leaves] for tree in full]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_unpruned_trees_end_with_the_leaves_of_the_plain_tree(search: SteeringConfig) -> None:
    policy = ScriptedPolicy(LINES)
    ((plain, _),) = grow_trees(policy, [policy.encode_question("?")], ALL)
    leaves, _ = searched(search, by_letters({}, other=0.5))
    assert sorted(leaves) == sorted(texts(policy, plain)) == LEAVES


def test_the_last_bits_of_a_score_decide_nothing() -> None:
    class Noisy(ScriptedScorer):
        def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
            noise = 1e-9 * math.sin(len(self.batches))
            return [[score + noise for score in its_scores] for its_scores in super().score(questions, steps)]

    for search in (SteeringConfig(prune_below=0.5), SteeringConfig(expand="mcts", exploration=0.0)):
        quiet, noisy = (
            searched(search, by_letters({"b": 0.7})),
            searched(search, Noisy(lambda _, text: 0.7 if text == "b\n" else 0.5)),
        )
        assert noisy == quiet


def test_leaves_that_wait_together_are_scored_in_one_call() -> None:
    config = TreeConfig(tau=0.6, num_leaves=5, max_tokens=30)
    scorer = ScriptedScorer(lambda _, text: 0.5)
    in_step = ScriptedPolicy(lambda _, text: {"a": 0.5, "b": 0.5} if len(text) < 6 else {"<end>": 1.0})
    steer_trees(in_step, PROBLEMS, config, Steering(PUCT, scorer))
    # the leaves that fill the budget decide nothing and are not read
    assert [len(batch) for batch in scorer.batches] == [len(PROBLEMS)] * 4
    scorer = ScriptedScorer(random_worth)
    problems = [problem(f"question {idx}") for idx in range(64)]
    steer_trees(random_policy(1), problems, config, Steering(PUCT, scorer))
    sizes = [len(batch) for batch in scorer.batches]
    assert sum(sizes) / len(sizes) > 64 / 8


def test_a_dropped_duplicate_and_an_early_end_leave_the_search_in_order() -> None:
    script = {"": {"a": 0.5, "ab": 0.5}, "a": {"b": 0.5, "<end>": 0.5}}
    leaves, found = searched(PUCT, by_letters({}), TreeConfig(tau=0.6, duplicates="drop"), script)
    assert leaves == ["ab", "a"]
    assert found.cost.requests == 2  # the greedy solution and the duplicate: an end needs no request


def test_the_example_in_the_docs_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    document = Path(__file__).parents[1] / "docs" / "explanations" / "trees.md"
    example, printed = document.read_text(encoding="utf-8").split("## By hand")[1].split("\nprints\n")
    exec(compile("\n".join(line[4:] for line in example.splitlines()), document.name, "exec"), {})
    assert capsys.readouterr().out.splitlines() == [line[4:] for line in printed.splitlines() if line]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            [[float("nan")] * 2],
            "'odd' gave the scores \\[nan, nan\\] for 2 steps; one number in \\[0, 1\\] per step",
        ),
        ([[0.5, 1.5]], "gave the scores \\[0.5, 1.5\\]"),
        ([[0.5]], "gave the scores \\[0.5\\] for 2 steps"),
        ([], "was given 1 solutions and scored 0"),
    ],
)
def test_a_scorer_without_a_number_per_step_is_refused(scores: list[list[float]], message: str) -> None:
    class Odd:
        name = "odd"

        def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
            return scores

    with pytest.raises(ValueError, match=message):
        steer_trees(ScriptedPolicy(LINES), [problem()], ALL, Steering(SteeringConfig(prune_below=0.2), Odd()))


def test_a_search_that_needs_a_scorer_says_so() -> None:
    for search in (
        SteeringConfig(prune_below=0.2),
        PUCT,
        SteeringConfig(expand="mcts", value="confidence", prune_below=0.2),
    ):
        assert search.needs_scorer
        with pytest.raises(ValueError, match="need a scorer"):
            searched(search)


def test_a_scorer_of_whole_solutions_can_value_leaves_but_not_prune() -> None:
    whole = PRMFormat(segmentation="solution")
    leaves, _ = searched(PUCT, by_letters(WORTH), prm_format=whole)
    assert sorted(leaves) == LEAVES
    with pytest.raises(ValueError, match="whole solutions has no score for the steps before a fork"):
        searched(SteeringConfig(prune_below=0.2), by_letters(WORTH), prm_format=whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expand": "best"}, "expand 'best' is unknown; choose from order, mcts"),
        ({"value": "gold"}, "prm, confidence, outcome"),
        ({"aggregate": "max"}, "last, min, prod, mean"),
        ({"prior": "flat"}, "policy, uniform"),
        ({"prune_below": -0.1}, "prune_below must be at least 0; -0.1"),
        ({"exploration": math.inf}, "exploration must be at least 0; inf"),
        ({"exploration": math.nan}, "exploration must be at least 0; nan"),
    ],
)
def test_impossible_searches_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringConfig(**arguments)


@pytest.mark.slow
def test_the_lab_policy_and_a_tagged_prm_grow_the_same_tree_in_any_batch(tmp_path: Path) -> None:
    PRMFormat(tag="#").save(make_checkpoint(tmp_path, max_position_embeddings=1024))
    prm = load_prm(tmp_path, "cpu")
    policies = [load_policy("lab", device="cpu", batch_size=batch_size) for batch_size in (64, 1)]
    problems = load_problems("lab:test?num=2&seed=5")
    config = TreeConfig(tau=0.7, num_leaves=4, max_tokens=90)

    def count(question: str, steps: Sequence[str]) -> int:
        return prm.num_tokens(question, steps)

    for search in (SteeringConfig(prune_below=0.5), SteeringConfig(expand="mcts", prune_below=0.05)):
        policies[0].reset_cache()
        together = steer_trees(policies[0], problems, config, Steering(search, prm, prm.format, count))
        alone = [
            steer_trees(policies[1], [item], config, Steering(search, prm, prm.format, count))[0]
            for item in problems
        ]
        assert [structure(found) for found in together] == [structure(found) for found in alone]
        assert all(found.scoring.tokens > 0 for found in together if found.tree.num_leaves > 1)
        assert sum(found.tree.num_leaves for found in together) > len(problems)


def structure(found: SteeredTree) -> tuple[Any, ...]:
    branches = [
        (branch.parent_idx, branch.fork, branch.completion.token_ids) for branch in found.tree.branches
    ]
    return branches, found.num_pruned, found.scoring, found.cost.sampled_tokens
