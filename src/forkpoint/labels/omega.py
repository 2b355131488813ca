"""OmegaPRM's tree search for first errors (arXiv 2406.06592, sections 3.2 and 3.3), for one problem.

A search says which prefixes of solutions it wants rolled out (`needs`), takes the graded rollouts (`feed`),
and so grows a tree of states: prefixes with k rollouts each. It picks a wrong rollout of a state that is
sometimes solved, bisects its steps for the first one after which no rollout is right, and adds the wrong
rollouts of the prefixes that it evaluated to the pool that it picks from.

Invariant: a search is a function of its configuration and of what was fed, in order. There is no randomness,
policy or I/O here; a search is resumed by feeding the recorded rollouts to a new one. No prefix is wanted
twice.
Not covered: filtering problems by difficulty (appendix A), the pairwise loss (appendix B), sampling and
grading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from forkpoint.labels.omega_records import BinarySearch, BisectConfig, GradedPath, Need, Node
from forkpoint.records import Rollout
from forkpoint.steps import newline_steps, token_steps, tokens_at


def rollout_value(value: float, num_tokens: int, config: BisectConfig) -> float:
    """Q(s, r) = alpha^(1 - MC(s)) * beta^(len(r) / L), in (0, 1] (eq. 2).

    `value` is the state's MC in [0, 1], `num_tokens` the number of the rollout's own tokens.
    """
    return float(config.alpha ** (1 - value) * config.beta ** (num_tokens / config.length_scale))


def exploration(num_visits: int, total_visits: int, config: BisectConfig) -> float:
    """U(s) = c_puct * sqrt(sum_i N(s_i)) / (1 + N(s)) (eq. 3).

    The sum is taken over all states, so `total_visits` is the number of all searches so far.
    """
    return config.c_puct * math.sqrt(total_visits) / (1 + num_visits)


@dataclass(slots=True)
class _Bisection:
    """A running binary search: the prefix up to cut `low` has a right rollout, that up to `high` has none."""

    node_idx: int
    rollout_idx: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    cuts: tuple[int, ...]
    """Numbers of tokens: of the node's prefix, then up to the end of each step of the rollout; the last
    counts them all."""
    low: int
    high: int
    low_idx: int
    """The node of cut `low`."""
    midpoint_idxs: list[int]
    num_evaluated: int = 0

    @property
    def middle(self) -> int:
        return (self.low + self.high) // 2


class OmegaSearch:
    """The search of one problem.

    Call `needs` and answer with `feed` until nothing is needed; read the results at any time.
    Selection takes the rollout with the largest Q + U; of equals, the one that joined the pool first (by
    node, then by rollout). The pool holds each wrong rollout with text of the states with 0 < MC < 1 until it
    is selected; a rollout that a state sampled twice is held once. The end of a whole solution is never
    rolled out: its outcome is its answer.
    """

    def __init__(self, config: BisectConfig) -> None:
        self._config = config
        self._nodes: list[Node] = []
        self._idx_of: dict[tuple[int, ...], int] = {}
        self._pool: list[tuple[int, int]] = []
        self._searches: list[BinarySearch] = []
        self._bisection: _Bisection | None = None
        self._need: Need | None = Need((), (), config.num_rollouts)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The tree in the order of evaluation; the first is the bare question."""
        return tuple(self._nodes)

    @property
    def searches(self) -> tuple[BinarySearch, ...]:
        """The finished binary searches, in order."""
        return tuple(self._searches)

    def needs(self) -> list[Need]:
        """The prefixes that are wanted now: one, since each answer decides the next; or none, at the end."""
        return [] if self._need is None else [self._need]

    def feed(self, rollouts: Sequence[Sequence[Rollout]]) -> None:
        """Answer `needs()` with one sequence per need, in order, of as many rollouts as it wants.

        ValueError for any other number; the search is then unchanged.
        """
        needs = self.needs()
        if len(rollouts) != len(needs):
            raise ValueError(
                f"{len(needs)} prefixes are wanted and answers for {len(rollouts)} were given; "
                "feed one sequence per need"
            )
        for need, answer in zip(needs, rollouts, strict=True):
            if len(answer) != need.num_rollouts:
                raise ValueError(
                    f"{need.num_rollouts} rollouts of a prefix are wanted; {len(answer)} were given"
                )
            self._add(need, tuple(answer))
            self._advance()

    def outcomes(self, prefix_ids: Sequence[int]) -> tuple[bool, ...] | None:
        """The outcomes of a prefix's rollouts; None if it was not evaluated. It excludes the prompt."""
        node_idx = self._idx_of.get(tuple(prefix_ids))
        return None if node_idx is None else self._nodes[node_idx].outcomes

    def paths(self) -> list[GradedPath]:
        """Every sampled solution, by node, then by rollout; those with a `first_error_idx` were searched."""
        found = {
            (
                search.node_idx,
                self._nodes[search.node_idx].rollouts[search.rollout_idx].token_ids,
            ): search.first_error_idx
            for search in self._searches
        }
        return [
            self._path(idx, rollout_idx, found)
            for idx, node in enumerate(self._nodes)
            for rollout_idx in range(len(node.rollouts))
        ]

    def _path(
        self, node_idx: int, rollout_idx: int, found: dict[tuple[int, tuple[int, ...]], int]
    ) -> GradedPath:
        node = self._nodes[node_idx]
        rollout = node.rollouts[rollout_idx]
        token_ids = node.prefix_ids + rollout.token_ids
        # a rollout without text has no step of its own: its tokens go to the last step of the prefix
        head = node.step_ends if any(rollout.token_texts) else node.step_ends[:-1]
        step_ends = (*head, *(len(node.prefix_ids) + end for end in self._step_ends(rollout.token_texts)))
        inner = [self.outcomes(token_ids[:end]) for end in step_ends[:-1]]
        return GradedPath(
            node_idx=node_idx,
            rollout_idx=rollout_idx,
            token_ids=token_ids,
            token_texts=node.prefix_texts + rollout.token_texts,
            step_ends=step_ends,
            outcomes=(*inner, (rollout.is_correct,)),
            first_error_idx=found.get((node_idx, rollout.token_ids)),
        )

    def _step_ends(self, token_texts: Sequence[str]) -> tuple[int, ...]:
        """Number of a rollout's own tokens up to the end of each of its steps.

        Only a rollout without text has an empty step.
        """
        if self._config.segmentation == "newline":
            starts = tokens_at(token_texts, newline_steps("".join(token_texts)))[:-1]
        else:
            first = self._nodes[0].rollouts
            piece = max(
                1.0, sum(len(rollout.token_ids) for rollout in first) / len(first) / self._config.num_pieces
            )
            num_pieces = math.ceil(len(token_texts) / piece)
            starts = tuple(len(token_texts) * idx // num_pieces for idx in range(1, num_pieces))
        return token_steps(token_texts, starts)[1]

    def _add(self, need: Need, rollouts: tuple[Rollout, ...]) -> None:
        node_idx = len(self._nodes)
        step_ends: tuple[int, ...] = ()
        parent_idx: int | None = None
        if (bisection := self._bisection) is not None:
            step_ends = self._nodes[bisection.node_idx].step_ends + bisection.cuts[1 : bisection.middle + 1]
            parent_idx = bisection.low_idx
            bisection.num_evaluated += 1
        node = Node(need.prefix_ids, need.prefix_texts, step_ends, rollouts, parent_idx)
        self._nodes.append(node)
        self._idx_of[need.prefix_ids] = node_idx
        if 0 < node.value < 1:
            wrong = {
                rollout.token_ids: idx
                for idx, rollout in reversed(list(enumerate(rollouts)))
                if not rollout.is_correct
            }
            self._pool.extend(
                (node_idx, idx) for idx in sorted(wrong.values()) if any(rollouts[idx].token_texts)
            )

    def _advance(self) -> None:
        """Bisect, and select after each bisection, until rollouts are needed or the search is finished."""
        self._need = None
        while self._bisection is not None or (self._pool and len(self._searches) < self._config.max_searches):
            bisection = self._bisection = self._bisection or self._select()
            while bisection.high - bisection.low > 1:
                cut = bisection.cuts[bisection.middle]
                node_idx = self._idx_of.get(bisection.token_ids[:cut])
                if node_idx is None:
                    self._need = Need(
                        bisection.token_ids[:cut], bisection.token_texts[:cut], self._config.num_rollouts
                    )
                    return
                bisection.midpoint_idxs.append(node_idx)
                if self._nodes[node_idx].value > 0:
                    bisection.low, bisection.low_idx = bisection.middle, node_idx
                else:
                    bisection.high = bisection.middle
            self._searches.append(
                BinarySearch(
                    node_idx=bisection.node_idx,
                    rollout_idx=bisection.rollout_idx,
                    midpoint_idxs=tuple(bisection.midpoint_idxs),
                    num_evaluated=bisection.num_evaluated,
                    first_error_idx=len(self._nodes[bisection.node_idx].step_ends) + bisection.high - 1,
                )
            )
            self._bisection = None

    def _select(self) -> _Bisection:
        """Take the best rollout out of the pool and count the visit."""
        node_idx, rollout_idx = max(self._pool, key=lambda candidate: self._priority(*candidate))
        self._pool.remove((node_idx, rollout_idx))
        node = self._nodes[node_idx]
        self._nodes[node_idx] = replace(node, num_visits=node.num_visits + 1)
        rollout = node.rollouts[rollout_idx]
        cuts = (
            len(node.prefix_ids),
            *(len(node.prefix_ids) + end for end in self._step_ends(rollout.token_texts)),
        )
        token_ids, token_texts = node.prefix_ids + rollout.token_ids, node.prefix_texts + rollout.token_texts
        return _Bisection(node_idx, rollout_idx, token_ids, token_texts, cuts, 0, len(cuts) - 1, node_idx, [])

    def _priority(self, node_idx: int, rollout_idx: int) -> float:
        node, config = self._nodes[node_idx], self._config
        num_tokens = len(node.rollouts[rollout_idx].token_ids)
        return rollout_value(node.value, num_tokens, config) + exploration(
            node.num_visits, len(self._searches), config
        )
