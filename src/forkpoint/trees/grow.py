"""Grow a solution tree from entropy anchors (EDU-PRM, arXiv 2503.22233).

The root branch is the greedy solution. At an anchor the runner-up token is followed too: a new branch is the
parent's path up to the anchor, then the runner-up, then greedy decoding. The tree gains one branch at a time,
always at the open anchor that its frontier puts first, until it has all its leaves or no anchor is open. The
frontier here is a fixed order (`frontier.py`); `steer.py` has frontiers that depend on scores.

Invariant: a tree and its cost depend on the policy, the prompt and the configuration alone, whatever grows
beside it, and whichever of its forks are grown ahead of their turn; the tree of a smaller leaf budget is a
prefix of the same tree. Leaves are greedy and top-2 paths, not samples of the policy: a plain mean over them
is not an expectation under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forkpoint.checks import check_above, check_at_least, check_choice
from forkpoint.policies.context import room_after
from forkpoint.policies.jobs import Job, done_jobs
from forkpoint.records import Branch, Completion, Cost, Policy, Request, Tree
from forkpoint.steps import AnchorRule
from forkpoint.trees.ahead import Allowance
from forkpoint.trees.frontier import ORDERS, Anchor, Frontier, Leaf, Order, OrderFrontier

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


def grow_trees(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    config: TreeConfig,
    allowance: Allowance | None = None,
) -> list[tuple[Tree, Cost]]:
    """One tree per prompt, with its cost; the trees grow side by side, and none waits for another.

    `allowance` says how much may be grown ahead for nothing (None: nothing), and counts it.
    Solutions are shorter than `max_tokens` if the policy's context leaves less room after the prompt;
    ValueError if it leaves none.
    """
    growers = [
        TreeGrower(policy, prompt, config, OrderFrontier(config.order), allowance) for prompt in prompts
    ]
    for _ in done_jobs(policy, enumerate(growers)):
        pass
    return [(grower.tree, grower.cost) for grower in growers]


def _fitting(config: TreeConfig, policy: Policy, prompt_ids: tuple[int, ...]) -> TreeConfig:
    room = room_after(policy, prompt_ids, config.max_tokens)
    if room == 0:
        raise ValueError(
            f"a prompt of {len(prompt_ids)} tokens leaves no room "
            f"in the policy's context of {policy.max_length}"
        )
    return config if room == config.max_tokens else replace(config, max_tokens=room)


@dataclass(slots=True)
class _Fork:
    """A fork that was asked for."""

    request: Request
    is_spare: bool = False
    """Whether the tree may not come to need it."""
    completion: Completion | None = None


class TreeGrower(Job):
    """Grows one tree: asks for completions, and forks the anchors that the frontier chooses.

    Branches join the tree in the order of the frontier, whatever order their completions come in: a fork that
    was grown ahead of its turn is kept aside. The forks that the frontier is sure of are grown ahead; others,
    which the tree may not come to need, only if the policy has nothing else to do.
    Raises ValueError if the prompt leaves no room in the policy's context. The order of the configuration is
    ignored: the frontier decides.
    """

    def __init__(
        self,
        policy: Policy,
        prompt_ids: tuple[int, ...],
        config: TreeConfig,
        frontier: Frontier,
        allowance: Allowance | None = None,
    ) -> None:
        self._policy, self._config, self._rule = policy, _fitting(config, policy, prompt_ids), config.rule
        self._prompt_ids = prompt_ids
        self._allowance = allowance or Allowance(max_waste=0)
        self._frontier = frontier
        self._branches: list[Branch] = []
        self._paths: list[Completion] = []
        self._root: _Fork | None = None
        self._turn: Anchor | None = None
        """The anchor whose fork joins the tree next; None if it is not chosen yet."""
        self._forks: dict[Anchor, _Fork] = {}
        """The forks that were asked for and have not joined the tree."""
        self._is_exhausted = False
        self._texts: set[str] = set()
        self.cost = Cost()
        """The cost of the branches in the tree, and of those that were dropped as duplicates."""

    @property
    def tree(self) -> Tree:
        return Tree(self._prompt_ids, tuple(self._branches))

    @property
    def is_grown(self) -> bool:
        """Whether the tree has all its leaves, or was found to have no open anchor."""
        return self._is_exhausted or len(self._branches) >= self._config.num_leaves

    @property
    def is_done(self) -> bool:
        return self.is_grown

    def next_request(self) -> Request | None:
        """A completion that the tree is sure to need; None while that is unknown, and at the end."""
        if self._root is None:
            self._root = _Fork(Request(self._prompt_ids, max_tokens=self._config.max_tokens))
            return self._root.request
        while self._branches and not self.is_grown and self._frontier.can_pop:
            self._turn = self._turn or self._frontier.pop()
            if self._turn is None:
                self._is_exhausted = True
            elif (request := self._request_at(self._turn)) is None:
                self._add_fork(None)
            elif self._turn not in self._forks:
                return self._asked(self._turn, request)
            elif (completion := self._forks[self._turn].completion) is None:
                return self._ahead()
            else:
                self._allowance.num_at_risk -= self._forks.pop(self._turn).is_spare
                self._take(request, completion)
                self._add_fork(completion)
        if self.is_grown:
            self._drop_forks()
        return None

    def spare_request(self) -> Request | None:
        """The fork that is next if no anchor overtakes it, as far as the allowance goes."""
        if self._turn is None or self.is_grown or not self._allowance.has_room:
            return None
        request = self._first_unasked(self._frontier.likely(self._num_left), is_spare=True)
        self._allowance.num_at_risk += request is not None
        return request

    def absorb(self, request: Request, completion: Completion) -> None:
        """Take in the completion of a request.

        What it reused is counted as if this tree had an engine with a cache for itself, which holds the
        whole prefix of a fork but the forced token: a tree's cost does not depend on what grows beside it.
        """
        if not self._branches:
            assert self._root is not None and request == self._root.request, "the root comes first"
            completion = replace(completion, num_reused_tokens=0)
            self._take(request, completion)
            self._add(Branch(None, 0, completion), completion)
            return
        if self.is_grown:
            self._waste(completion)
            return
        fork = next(
            fork for fork in self._forks.values() if fork.request == request and fork.completion is None
        )
        fork.completion = replace(completion, num_reused_tokens=len(request.prefix_ids) - 1)

    def _request_at(self, anchor: Anchor) -> Request | None:
        """The request for the completion of a fork; None if the runner-up ends the solution."""
        path, position = self._paths[anchor.branch_idx], anchor.position
        forced_id = path.runner_up_ids[position]
        if forced_id in self._policy.eos_ids or position + 1 >= self._config.max_tokens:
            return None
        prefix_ids = self._prompt_ids + path.token_ids[:position] + (forced_id,)
        return Request(prefix_ids, max_tokens=self._config.max_tokens - position - 1)

    def _asked(self, anchor: Anchor, request: Request, is_spare: bool = False) -> Request:
        self._forks[anchor] = _Fork(request, is_spare)
        return request

    def _ahead(self) -> Request | None:
        """The next fork that the frontier is sure of, as far as the leaf budget goes."""
        return self._first_unasked(self._frontier.sure()[: self._num_left])

    @property
    def _num_left(self) -> int:
        """Leaves that the tree may have after the fork whose turn it is."""
        return self._config.num_leaves - len(self._branches) - 1

    def _first_unasked(self, anchors: Sequence[Anchor], is_spare: bool = False) -> Request | None:
        for anchor in anchors:
            if anchor not in self._forks and (request := self._request_at(anchor)) is not None:
                return self._asked(anchor, request, is_spare)
        return None

    def _take(self, request: Request, completion: Completion) -> None:
        """Count a completion that the tree asked for and has come to need."""
        self.cost += Cost.of([request], [completion])
        self._allowance.count(len(completion))

    def _drop_forks(self) -> None:
        """Count the forks that the tree did not come to need; those in flight are counted when they come."""
        for fork in self._forks.values():
            assert fork.is_spare, "forks that are sure are needed"
            if fork.completion is not None:
                self._waste(fork.completion)
        self._forks = {}

    def _waste(self, completion: Completion) -> None:
        self._allowance.num_at_risk -= 1
        self._allowance.wasted_tokens += len(completion)

    def _add_fork(self, rest: Completion | None) -> None:
        """Add the fork whose turn it is."""
        assert self._turn is not None, "a fork is added only after an anchor was chosen"
        turn, self._turn = self._turn, None
        path, position = self._paths[turn.branch_idx], turn.position
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
        self._add(Branch(turn.branch_idx, position, own), path.joined(position, own))

    def _add(self, branch: Branch, path: Completion) -> None:
        """Add a branch with its path, unless it is a duplicate."""
        branch_idx = len(self._branches)
        if self._config.duplicates == "drop":
            text = self._policy.decode(path.token_ids)
            if text in self._texts:
                return
            self._texts.add(text)
        self._branches.append(branch)
        self._paths.append(path)
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
