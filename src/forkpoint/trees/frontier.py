"""The open anchors of a growing tree, and the order in which they are forked.

Invariant: an order is a total one, so the next anchor depends on the branches of the tree alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forkpoint.records import Completion

Order = Literal["probable", "entropy", "earliest"]
ORDERS: tuple[Order, ...] = ("probable", "entropy", "earliest")
ROUNDING = 1e-3
"""Nats by which the sum of a path's log-probabilities may be off, at the very most."""


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

    @property
    def can_pop(self) -> bool:
        """Whether the next fork can be chosen already."""
        ...

    def add(self, leaf: Leaf) -> None:
        """Take in a grown branch and its anchors. A branch that was dropped as a duplicate is not added."""
        ...

    def pop(self) -> Anchor | None:
        """Close the anchor to fork next and return it; None if no anchor is open."""
        ...

    def sure(self) -> Sequence[Anchor]:
        """The open anchors, next one first, that no anchor on the fork of the popped one can overtake."""
        ...

    def likely(self, num: int) -> Sequence[Anchor]:
        """The `num` open anchors that are next if none overtakes them."""
        ...


class OrderFrontier:
    """The `Frontier` of a fixed order: the priority of an anchor is known when it opens.

    What a fork that is not grown yet may bring depends on the order:

    - `probable`: the runner-up of a position has at most half of its probability, and so has the path through
      it. So all anchors on a fork are less probable than the fork itself, by a factor of 2 or more: anchors
      that are more than half as probable as the fork come before all of them.
    - `earliest`: all anchors on a fork lie after the fork's own position; of equals, the older branch goes
      first.
    - `entropy`: anchors on a fork may have any entropy, so nothing is sure.
    """

    can_pop = True

    def __init__(self, order: Order) -> None:
        self._order = order
        self._open: list[tuple[float, int, int]] = []
        self._popped = -math.inf
        """The priority of the anchor that was popped last."""

    def add(self, leaf: Leaf) -> None:
        for position in leaf.anchors:
            heapq.heappush(self._open, (self._priority(leaf.path, position), leaf.branch_idx, position))

    def pop(self) -> Anchor | None:
        """The anchor with the lowest priority; of equals, the one on the oldest branch, then the earliest."""
        if not self._open:
            return None
        self._popped, branch_idx, position = heapq.heappop(self._open)
        return Anchor(branch_idx, position)

    def sure(self) -> list[Anchor]:
        if self._order == "entropy":
            return []
        step = 1.0 if self._order == "earliest" else math.log(2) - ROUNDING
        bound = self._popped + step
        return [
            Anchor(branch_idx, position)
            for priority, branch_idx, position in sorted(item for item in self._open if item[0] <= bound)
        ]

    def likely(self, num: int) -> list[Anchor]:
        return [Anchor(branch_idx, position) for _, branch_idx, position in heapq.nsmallest(num, self._open)]

    def _priority(self, path: Completion, position: int) -> float:
        if self._order == "entropy":
            return -path.entropies[position]
        if self._order == "earliest":
            return float(position)
        return -(sum(path.logprobs[:position]) + path.runner_up_logprobs[position])
