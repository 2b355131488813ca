"""Forks that are grown ahead of their turn: trees are those of one fork after another, branch for branch."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import replace

import pytest

from forkpoint.policies import ScriptedPolicy
from forkpoint.policies.jobs import done_jobs
from forkpoint.records import Branch, Completion, Policy, Request, Tree
from forkpoint.trees.ahead import Allowance
from forkpoint.trees.frontier import ORDERS, Anchor, Order, OrderFrontier
from forkpoint.trees.grow import DUPLICATES, Duplicates, TreeConfig, TreeGrower, grow_trees

ALWAYS = 1e9


def random_policy(seed: int, num_rows: int = 64) -> ScriptedPolicy:
    """Random distributions over four letters; a completion has about twenty tokens."""

    def script(question: str, text: str) -> dict[str, float]:
        rng = random.Random(f"{seed}/{question}/{text}")
        if rng.random() < 0.002 * len(text):
            return {"<end>": 1.0}
        weights = [rng.random() ** rng.choice((1, 6)) for _ in "abcd"]
        probs = {letter: weight / sum(weights) for letter, weight in zip("abcd", weights, strict=True)}
        return {**probs, "<end>": 0.0} if rng.random() < 0.9 else {"a": 0.6, "<end>": 0.4}

    return ScriptedPolicy(script, name=f"random-{seed}", num_rows=num_rows)


def one_by_one(policy: Policy, prompt_ids: tuple[int, ...], config: TreeConfig) -> list[Branch]:
    """The branches of a tree, by the definition: the best open anchor, its fork, and so on."""
    (root,) = policy.generate([Request(prompt_ids, config.max_tokens)])
    branches, seen, opened = (
        [Branch(None, 0, root)],
        {policy.decode(root.token_ids)},
        list[tuple[float, int, int]](),
    )

    def open_anchors(first: int) -> None:
        path = Tree(prompt_ids, tuple(branches)).path(len(branches) - 1)
        can_fork = config.rule.can_fork(policy.token_texts(path.token_ids))
        for position in config.rule.anchors(path.entropies, can_fork):
            rank = {
                "probable": -(sum(path.logprobs[:position]) + path.runner_up_logprobs[position]),
                "entropy": -path.entropies[position],
                "earliest": float(position),
            }[config.order]
            if position >= first:
                heapq.heappush(opened, (rank, len(branches) - 1, position))

    open_anchors(0)
    while opened and len(branches) < config.num_leaves:
        _, branch_idx, position = heapq.heappop(opened)
        path = Tree(prompt_ids, tuple(branches)).path(branch_idx)
        forced_id = path.runner_up_ids[position]
        rest = Completion((), (), (), (), (), "stop" if forced_id in policy.eos_ids else "length")
        if forced_id not in policy.eos_ids and position + 1 < config.max_tokens:
            prefix_ids = (*prompt_ids, *path.token_ids[:position], forced_id)
            (rest,) = policy.generate([Request(prefix_ids, config.max_tokens - position - 1)])
        forced = Completion(
            (forced_id,),
            (path.runner_up_logprobs[position],),
            (path.entropies[position],),
            (path.token_ids[position],),
            (path.logprobs[position],),
            "stop",
        )
        own = forced.joined(1, rest)
        text = policy.decode(path.token_ids[:position] + own.token_ids)
        if config.duplicates == "drop" and text in seen:
            continue
        seen.add(text)
        branches.append(Branch(branch_idx, position, own))
        open_anchors(position + 1)
    return branches


def plain(branches: tuple[Branch, ...]) -> list[Branch]:
    """The branches without the count of what was reused."""
    return [
        replace(branch, completion=replace(branch.completion, num_reused_tokens=0)) for branch in branches
    ]


@pytest.mark.parametrize("duplicates", DUPLICATES)
@pytest.mark.parametrize("order", ORDERS)
def test_trees_are_the_same_for_any_number_of_rows_and_any_depth_of_growing_ahead(
    order: Order, duplicates: Duplicates
) -> None:
    config = TreeConfig(num_leaves=9, tau=0.6, max_tokens=40, order=order, duplicates=duplicates)
    num_wasted = 0
    for seed in range(12):
        policy = random_policy(seed)
        prompts = [policy.encode_question(f"question {idx}") for idx in range(5)]
        expected = [one_by_one(policy, prompt, config) for prompt in prompts]
        assert sum(map(len, expected)) > 30
        costs = []
        for num_rows, max_waste in ((1, 0.0), (3, 0.03), (64, 0.0), (64, 0.03), (64, ALWAYS), (7, ALWAYS)):
            allowance = Allowance(max_waste)
            grown = grow_trees(random_policy(seed, num_rows), prompts, config, allowance)
            assert [plain(tree.branches) for tree, _ in grown] == expected
            costs.append([cost for _, cost in grown])
            assert allowance.num_at_risk == 0
            assert allowance.wasted_tokens <= max_waste * allowance.num_tokens + 40 * (max_waste > 0)
            num_wasted += allowance.wasted_tokens
        assert all(cost == costs[0] for cost in costs), "what was grown for nothing is not the tree's cost"
    assert num_wasted > 0


class WatchedFrontier(OrderFrontier):
    """Remembers what was popped, and what was sure at that time."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.turns: list[tuple[Anchor, list[Anchor]]] = []

    def pop(self) -> Anchor | None:
        anchor = super().pop()
        if anchor is not None:
            self.turns.append((anchor, self.sure()))
        return anchor


@pytest.mark.parametrize("order", ORDERS)
def test_no_anchor_overtakes_those_that_are_sure(order: Order) -> None:
    num_sure = 0
    for seed in range(40):
        policy, frontier = random_policy(seed), WatchedFrontier(order)
        config = TreeConfig(num_leaves=12, tau=0.4, max_tokens=40, order=order)
        grower = TreeGrower(policy, policy.encode_question("?"), config, frontier)
        for _ in done_jobs(policy, [(0, grower)]):
            pass
        popped = [anchor for anchor, _ in frontier.turns]
        for idx, (_, sure) in enumerate(frontier.turns):
            rest = popped[idx + 1 :]
            assert rest[: len(sure)] == sure[: len(rest)]
            num_sure += len(sure)
    assert (num_sure > 0) == (order != "entropy")


def test_a_probable_fork_is_sure_within_a_factor_of_two() -> None:
    script = {
        "": {"a": 0.5, "b": 0.3, "c": 0.2},
        "a": {"d": 0.6, "e": 0.4},
        "ad": {"f": 0.9, "g": 0.1},
    }
    policy = ScriptedPolicy(script)
    frontier = OrderFrontier("probable")
    grower = TreeGrower(policy, policy.encode_question("?"), TreeConfig(tau=0.3, num_leaves=9), frontier)
    root = grower.next_request()
    assert root is not None
    grower.absorb(root, policy.generate([root])[0])
    first, second, third = (grower.next_request() for _ in range(3))
    assert first is not None and second is not None
    # b with .3; of the others, .5 * .4 = .2 is above .3 / 2 and sure, .5 * .6 * .1 = .03 is not
    assert [policy.decode(request.prefix_ids[2:]) for request in (first, second)] == ["b", "ae"]
    assert third is None and grower.spare_request() is None
    assert math.isclose(frontier._popped, -math.log(0.3))


def test_rows_are_full_while_few_trees_are_left_and_little_is_wasted() -> None:
    config = TreeConfig(num_leaves=16, tau=0.5, max_tokens=40)
    shares = []
    for max_waste in (0.0, 0.03):
        policy, allowance = random_policy(1, num_rows=16), Allowance(max_waste)
        prompts = [policy.encode_question(f"question {idx}") for idx in range(60)]
        grow_trees(policy, prompts, config, allowance)
        assert allowance.wasted_tokens <= 0.03 * allowance.num_tokens
        shares.append(policy.num_row_steps / (policy.num_steps * 16))
    assert shares[1] >= shares[0] > 0.9
