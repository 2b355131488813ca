"""Grow a solution tree from entropy anchors (EDU-PRM, arXiv 2503.22233).

The root branch is the greedy solution. At an anchor the runner-up token is followed too: a new branch is the
parent's path up to the anchor, then the runner-up, then greedy decoding. The tree grows one branch at a time,
always at the open anchor that its frontier puts first, until it has all its leaves or no anchor is open. The
frontier here is a fixed order; `steer.py` has frontiers that depend on scores.

Invariant: a tree depends on the policy, the prompt and the configuration alone. Batching over prompts and the
policy's caches change its cost, never its branches; the tree of a smaller leaf budget is a prefix of the same
tree. Leaves are greedy and top-2 paths, not samples of the policy: a plain mean over them is not an
expectation under it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from forkpoint.checks import check_above, check_at_least, check_choice
from forkpoint.policies.context import room_after
from forkpoint.records import Branch, Completion, Cost, Policy, Request, Tree
from forkpoint.steps import AnchorRule

Order = Literal["probable", "entropy", "earliest"]
ORDERS: tuple[Order, ...] = ("probable", "entropy", "earliest")
Duplicates = Literal["keep", "drop"]
DUPLICATES: tuple[Duplicates, ...] = ("keep", "drop")


@dataclass(frozen=True)
class TreeConfig:
    """How a tree is grown.

    The paper leaves order, gap, symbols and duplicates open: those choices are ours.
    """

    num_leaves: int = 16
    """Largest number of leaves to grow (at most 64 in the paper); a tree whose anchors run out has fewer."""
    tau: float = 1.0
    """Entropy in nats above which a position is an anchor."""
    anchors_per_solution: float | None = None
    """Average number of anchors of greedy solutions that tau is calibrated to; None keeps tau."""
    min_gap: int = 1
    """Smallest distance in tokens between two anchors of a path."""
    symbols: str = "default"
    """Tokens that are never anchors: default (punctuation, mathematical symbols, white space), none, or the
    characters."""
    order: Order = "probable"
    """Which open anchor is forked next: probable (the most probable path through the runner-up), entropy,
    earliest."""
    max_tokens: int = 512
    """Largest number of tokens of a solution."""
    duplicates: Duplicates = "keep"
    """What to do with a leaf whose text an earlier leaf has: keep it, or drop it and fork elsewhere (its
    tokens still count as cost)."""

    def __post_init__(self) -> None:
        check_at_least(1, num_leaves=self.num_leaves, max_tokens=self.max_tokens)
        check_choice("order", self.order, ORDERS)
        check_choice("duplicates", self.duplicates, DUPLICATES)
        if self.anchors_per_solution is not None:
            check_above(0, anchors_per_solution=self.anchors_per_solution)
        self.rule  # noqa: B018 (checks tau and min_gap)

    @property
    def rule(self) -> AnchorRule:
        return AnchorRule(tau=self.tau, min_gap=self.min_gap, symbols=self.symbols)

    def with_tau(self, tau: float) -> TreeConfig:
        """The configuration with a calibrated tau, which is not calibrated again."""
        return replace(self, tau=tau, anchors_per_solution=None)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A token position on the path of a branch, at which the tree can be forked."""

    branch_idx: int
    position: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """A branch that was just grown, with everything that choosing the next fork may need."""

    branch_idx: int
    parent_idx: int | None
    fork: int
    path: Completion
    """From the prompt's end to the leaf."""
    token_texts: tuple[str, ...]
    """One per token of the path."""
    anchors: tuple[int, ...]
    """The positions of the path, ascending, that became open with this branch."""


class Frontier(Protocol):
    """The open anchors of one tree, and which of them is forked next."""

    def add(self, leaf: Leaf) -> None:
        """Take in a grown branch and its anchors. A branch that was dropped as a duplicate is not added."""
        ...

    def pop(self) -> Anchor | None:
        """Close the anchor to fork next and return it; None if no anchor is open."""
        ...


class OrderFrontier:
    """The `Frontier` of a fixed order: the priority of an anchor is known when it opens."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._open: list[tuple[float, int, int]] = []

    def add(self, leaf: Leaf) -> None:
        for position in leaf.anchors:
            heapq.heappush(self._open, (self._priority(leaf.path, position), leaf.branch_idx, position))

    def pop(self) -> Anchor | None:
        """The anchor with the lowest priority; of equals, the one on the oldest branch, then the earliest."""
        if not self._open:
            return None
        _, branch_idx, position = heapq.heappop(self._open)
        return Anchor(branch_idx, position)

    def _priority(self, path: Completion, position: int) -> float:
        if self._order == "entropy":
            return -path.entropies[position]
        if self._order == "earliest":
            return float(position)
        return -(sum(path.logprobs[:position]) + path.runner_up_logprobs[position])


def grow_trees(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    config: TreeConfig,
    on_wave: Callable[[int], None] | None = None,
) -> list[tuple[Tree, Cost]]:
    """One tree per prompt, with its cost; the trees grow side by side, one request each per wave.

    Solutions are shorter than `max_tokens` if the policy's context leaves less room after the prompt;
    ValueError if it leaves none. `on_wave` is called with the number of trees still growing before each wave.
    """
    growers = [TreeGrower(policy, prompt, config, OrderFrontier(config.order)) for prompt in prompts]
    while True:
        growing = [(grower, request) for grower in growers if (request := grower.next_request()) is not None]
        if not growing:
            return [(grower.tree, grower.cost) for grower in growers]
        if on_wave:
            on_wave(len(growing))
        completions = policy.generate([request for _, request in growing])
        for (grower, request), completion in zip(growing, completions, strict=True):
            grower.absorb(request, completion)


def _fitting(config: TreeConfig, policy: Policy, prompt_ids: tuple[int, ...]) -> TreeConfig:
    room = room_after(policy, prompt_ids, config.max_tokens)
    if room == 0:
        raise ValueError(
            f"a prompt of {len(prompt_ids)} tokens leaves no room "
            f"in the policy's context of {policy.max_length}"
        )
    return config if room == config.max_tokens else replace(config, max_tokens=room)


class TreeGrower:
    """Grows one tree: asks for one completion at a time, and forks the anchors that the frontier chooses.

    Raises ValueError if the prompt leaves no room in the policy's context. The order of the configuration is
    ignored: the frontier decides.
    """

    def __init__(
        self, policy: Policy, prompt_ids: tuple[int, ...], config: TreeConfig, frontier: Frontier
    ) -> None:
        self._policy, self._config, self._rule = policy, _fitting(config, policy, prompt_ids), config.rule
        self._prompt_ids = prompt_ids
        self._frontier = frontier
        self._branches: list[Branch] = []
        self._forked: Anchor | None = None
        self._is_exhausted = False
        self._texts: set[str] = set()
        self.cost = Cost()

    @property
    def tree(self) -> Tree:
        return Tree(self._prompt_ids, tuple(self._branches))

    @property
    def is_grown(self) -> bool:
        """Whether the tree has all its leaves, or was found to have no open anchor."""
        return self._is_exhausted or len(self._branches) >= self._config.num_leaves

    def next_request(self) -> Request | None:
        """The next completion that the tree needs, or None when it is fully grown."""
        while not self.is_grown:
            if (request := self.step()) is not None:
                return request
        return None

    def step(self) -> Request | None:
        """Fork one anchor; return the request for the completion it needs, or None if it needs none.

        It needs none if the runner-up ends the solution.

        A forked anchor adds one leaf, at once or when the completion is absorbed, unless that leaf is dropped
        as a duplicate. If no anchor is open, nothing is added and the tree `is_grown`.
        """
        if not self._branches:
            return Request(self._prompt_ids, max_tokens=self._config.max_tokens)
        self._forked = self._frontier.pop()
        if self._forked is None:
            self._is_exhausted = True
            return None
        path, position = self.tree.path(self._forked.branch_idx), self._forked.position
        forced_id = path.runner_up_ids[position]
        if forced_id in self._policy.eos_ids or position + 1 >= self._config.max_tokens:
            self._add_fork(path, None)
            return None
        prefix_ids = self._prompt_ids + path.token_ids[:position] + (forced_id,)
        return Request(prefix_ids, max_tokens=self._config.max_tokens - position - 1)

    def absorb(self, request: Request, completion: Completion) -> None:
        """Take in the completion of the last request."""
        self.cost += Cost.of([request], [completion])
        if self._forked is None:
            self._add(Branch(None, 0, completion))
        else:
            self._add_fork(self.tree.path(self._forked.branch_idx), completion)

    def _add_fork(self, path: Completion, rest: Completion | None) -> None:
        assert self._forked is not None, "a fork is added only after an anchor was chosen"
        position = self._forked.position
        is_end = path.runner_up_ids[position] in self._policy.eos_ids
        own = Completion(
            token_ids=(path.runner_up_ids[position], *(rest.token_ids if rest else ())),
            logprobs=(path.runner_up_logprobs[position], *(rest.logprobs if rest else ())),
            entropies=(path.entropies[position], *(rest.entropies if rest else ())),
            runner_up_ids=(path.token_ids[position], *(rest.runner_up_ids if rest else ())),
            runner_up_logprobs=(path.logprobs[position], *(rest.runner_up_logprobs if rest else ())),
            finish=rest.finish if rest else "stop" if is_end else "length",
            num_reused_tokens=rest.num_reused_tokens if rest else 0,
        )
        self._add(Branch(self._forked.branch_idx, position, own))

    def _add(self, branch: Branch) -> None:
        branch_idx = len(self._branches)
        path = branch.completion
        if branch.parent_idx is not None:
            path = Tree(self._prompt_ids, (*self._branches, branch)).path(branch_idx)
        if self._config.duplicates == "drop":
            text = self._policy.decode(path.token_ids)
            if text in self._texts:
                return
            self._texts.add(text)
        self._branches.append(branch)
        texts = tuple(self._policy.token_texts(path.token_ids))
        self._frontier.add(
            Leaf(branch_idx, branch.parent_idx, branch.fork, path, texts, self._anchors(branch, path, texts))
        )

    def _anchors(self, branch: Branch, path: Completion, token_texts: Sequence[str]) -> tuple[int, ...]:
        """The anchors on the branch's own tokens, except the forced first token of a fork."""
        can_fork = self._rule.can_fork(token_texts)
        first_own = branch.fork + (branch.parent_idx is not None)
        return tuple(
            position for position in self._rule.anchors(path.entropies, can_fork) if position >= first_own
        )


def shared_lengths(tree: Tree) -> list[list[int]]:
    """The number of leading tokens that two leaves' paths share, [leaf][leaf]; the diagonal holds lengths."""
    lengths = [[0] * tree.num_leaves for _ in range(tree.num_leaves)]
    for leaf_idx, branch in enumerate(tree.branches):
        lengths[leaf_idx][leaf_idx] = branch.fork + len(branch.completion)
        for other_idx in range(leaf_idx):
            assert branch.parent_idx is not None, "only the first branch is a root"
            is_parent = other_idx == branch.parent_idx
            shared = branch.fork if is_parent else min(branch.fork, lengths[other_idx][branch.parent_idx])
            lengths[leaf_idx][other_idx] = lengths[other_idx][leaf_idx] = shared
    return lengths
