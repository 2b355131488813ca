"""Trees: hand-drawn ones come out as drawn, and depend on nothing but policy, prompt and configuration."""

from __future__ import annotations

import math
import random

import pytest

from forkpoint.policies import ScriptedPolicy
from forkpoint.records import Cost, Tree
from forkpoint.trees.frontier import ORDERS
from forkpoint.trees.grow import TreeConfig, grow_trees, shared_lengths

SCRIPT = {
    "": {"a": 0.6, "b": 0.4},
    "a": {"c": 0.9, "d": 0.1},
    "ac": {"e": 0.5, "f": 0.5},
    "ad": {"x": 1.0},
    "b": {"g": 0.55, "h": 0.45},
    "bg": {"+": 0.5, "-": 0.5},
}
"""Entropies: .67 at the start, .33 after a, .69 after ac, b and bg (but + and - are symbols)."""


def texts(policy: ScriptedPolicy, tree: Tree) -> list[str]:
    return [policy.decode(tree.path(leaf_idx).token_ids) for leaf_idx in range(tree.num_leaves)]


def grown(
    config: TreeConfig, script: dict[str, dict[str, float]] | None = None
) -> tuple[list[str], Tree, Cost]:
    policy = ScriptedPolicy(script or SCRIPT)
    ((tree, cost),) = grow_trees(policy, [policy.encode_question("?")], config)
    return texts(policy, tree), tree, cost


def test_a_tree_is_the_greedy_path_and_its_runner_ups() -> None:
    leaves, tree, _ = grown(TreeConfig(tau=0.5, num_leaves=16))
    assert leaves[0] == "ace"
    assert set(leaves) == {"ace", "acf", "bg+", "bh"}
    assert tree.branches[0].parent_idx is None


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("probable", ["ace", "b", "acf"]),  # through b: .4; through f: .6 * .9 * .5 = .27
        ("entropy", ["ace", "acf", "b"]),  # .69 after ac against .67 at the start
        ("earliest", ["ace", "b", "bh"]),  # position 0, then position 1 on the new branch against position 2
    ],
)
def test_expansion_orders_by_hand(order: str, expected: list[str]) -> None:
    leaves, _, _ = grown(TreeConfig(tau=0.5, num_leaves=3, order=order))  # type: ignore[arg-type]
    assert [leaf[: len(want)] for leaf, want in zip(leaves, expected, strict=True)] == expected


def test_symbols_are_never_forked_and_below_tau_nothing_is() -> None:
    leaves, _, _ = grown(TreeConfig(tau=0.5, num_leaves=16))
    assert "bg-" not in leaves
    assert "bg-" in grown(TreeConfig(tau=0.5, num_leaves=16, symbols="none"))[0]
    assert grown(TreeConfig(tau=0.7))[0] == ["ace"]


def test_min_gap_skips_close_anchors() -> None:
    assert set(grown(TreeConfig(tau=0.5, min_gap=2))[0]) == {
        "ace",
        "acf",
        "bg+",
    }  # b's anchor lies 1 after the first fork


def test_the_tree_of_a_smaller_budget_is_a_prefix() -> None:
    for order in ORDERS:
        _, full, _ = grown(TreeConfig(tau=0.3, num_leaves=16, order=order))
        for num_leaves in range(1, full.num_leaves + 1):
            _, small, _ = grown(TreeConfig(tau=0.3, num_leaves=num_leaves, order=order))
            assert small.branches == full.branches[:num_leaves]


def test_a_forced_token_carries_the_fork_on_both_sides() -> None:
    _, tree, _ = grown(TreeConfig(tau=0.5, num_leaves=2))
    fork, root = tree.branches[1], tree.branches[0].completion
    assert fork.completion.token_ids[0] == root.runner_up_ids[fork.fork]
    assert fork.completion.runner_up_ids[0] == root.token_ids[fork.fork]
    assert fork.completion.logprobs[0] == pytest.approx(math.log(0.4))
    assert fork.completion.entropies[0] == root.entropies[fork.fork]


def test_cost_counts_every_request_and_no_forced_token() -> None:
    _, tree, cost = grown(TreeConfig(tau=0.5, num_leaves=16))
    own = sum(len(branch.completion) - (branch.parent_idx is not None) for branch in tree.branches)
    assert cost.sampled_tokens == own
    assert cost.requests == tree.num_leaves
    assert cost.prompt_tokens == sum(
        2 + branch.fork + (branch.parent_idx is not None) for branch in tree.branches
    )


def test_a_runner_up_that_ends_the_text_needs_no_request() -> None:
    leaves, tree, cost = grown(TreeConfig(tau=0.5, num_leaves=4), {"": {"a": 0.6, "<end>": 0.4}})
    assert leaves == ["a", ""]
    assert tree.branches[1].completion.finish == "stop"
    assert cost.requests == 1


def test_the_token_limit_holds_on_every_branch() -> None:
    script = {"a" * idx + tail: {"a": 0.6, "b": 0.4} for idx in range(12) for tail in ("", "b")}
    leaves, tree, _ = grown(TreeConfig(tau=0.5, num_leaves=40, max_tokens=4), script)
    assert max(map(len, leaves)) == 4
    assert {
        branch.completion.finish for branch, leaf in zip(tree.branches, leaves, strict=True) if len(leaf) == 4
    } == {"length"}


def test_duplicate_texts_are_kept_or_dropped_as_asked() -> None:
    script = {"": {"a": 0.5, "ab": 0.5}, "a": {"b": 0.9, "c": 0.1}}
    assert grown(TreeConfig(tau=0.6), script)[0] == ["ab", "ab"]
    leaves, _, cost = grown(TreeConfig(tau=0.6, duplicates="drop"), script)
    assert leaves == ["ab"]
    assert cost.requests == 2  # what was dropped was paid for


def random_policy(seed: int) -> ScriptedPolicy:
    def script(question: str, text: str) -> dict[str, float]:
        rng = random.Random(f"{seed}/{question}/{text}")
        if rng.random() < 0.1 * len(text):
            return {"<end>": 1.0}
        weights = [rng.random() ** 3 + 1e-3 for _ in "abcd"]
        return {token: weight / sum(weights) for token, weight in zip("abcd", weights, strict=True)}

    return ScriptedPolicy(script, name=f"random-{seed}")


@pytest.mark.parametrize("order", ORDERS)
def test_trees_do_not_depend_on_what_grows_beside_them(order: str) -> None:
    policy = random_policy(0)
    prompts = [policy.encode_question(f"question {idx}") for idx in range(12)]
    config = TreeConfig(tau=0.9, num_leaves=9, max_tokens=30, order=order)  # type: ignore[arg-type]
    together = grow_trees(policy, prompts, config)
    assert together == [grow_trees(policy, [prompt], config)[0] for prompt in prompts]
    assert sum(tree.num_leaves for tree, _ in together) > 50


def test_shared_lengths_agree_with_brute_force() -> None:
    policy = random_policy(1)
    for tree, _ in grow_trees(
        policy, [policy.encode_question(f"{idx}") for idx in range(20)], TreeConfig(tau=0.7, num_leaves=12)
    ):
        paths = [tree.path(leaf_idx).token_ids for leaf_idx in range(tree.num_leaves)]
        assert len(set(paths)) == len(paths)
        lengths = shared_lengths(tree)
        for left, left_path in enumerate(paths):
            for right, right_path in enumerate(paths):
                shared = next(
                    (
                        idx
                        for idx, pair in enumerate(zip(left_path, right_path, strict=False))
                        if pair[0] != pair[1]
                    ),
                    min(len(left_path), len(right_path)),
                )
                assert lengths[left][right] == shared


def test_n_leaves_give_2n_minus_2_fragments_besides_the_root() -> None:
    _, tree, _ = grown(TreeConfig(tau=0.5, num_leaves=16))
    paths = [tree.path(leaf_idx).token_ids for leaf_idx in range(tree.num_leaves)]
    forks = [
        (paths[branch.parent_idx][: branch.fork]) for branch in tree.branches if branch.parent_idx is not None
    ]
    assert len(forks) == tree.num_leaves - 1
    children = {
        (*prefix, token)
        for prefix in forks
        for path in paths
        if path[: len(prefix)] == prefix
        for token in path[len(prefix) : len(prefix) + 1]
    }
    assert len(children) == 2 * tree.num_leaves - 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_leaves": 0}, "num_leaves must be at least 1; 0"),
        ({"order": "likely"}, "probable, entropy, earliest"),
        ({"duplicates": "merge"}, "keep, drop"),
        ({"tau": -1.0}, "tau"),
        ({"anchors_per_solution": 0.0}, "anchors_per_solution"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_impossible_configurations_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeConfig(**arguments)  # type: ignore[arg-type]
