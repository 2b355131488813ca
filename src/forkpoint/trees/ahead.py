"""How much may be grown ahead that trees may not come to need.

Invariant: this decides which forks are grown early, never which forks a tree has.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_WASTE = 0.03
"""The default share of wasted tokens."""


@dataclass(slots=True)
class Allowance:
    """What trees that share it have grown, and what of it for nothing."""

    max_waste: float = MAX_WASTE
    """Forks that may not be needed are grown ahead only while the tokens wasted so far, and those that would
    be if none of the forks grown ahead were needed, are at most this share of the tokens in trees. 0 grows no
    such fork."""
    num_tokens: int = 0
    """Tokens sampled for the branches of trees, those of duplicates included."""
    num_completions: int = 0
    """The completions that these tokens are from."""
    num_at_risk: int = 0
    """Forks that were grown ahead, or are being grown, without it being sure that they are needed."""
    wasted_tokens: int = 0
    """Tokens of forks that were not needed."""

    @property
    def has_room(self) -> bool:
        """Whether one more fork may be grown ahead."""
        if not self.num_completions:
            return False
        at_risk = (self.num_at_risk + 1) * self.num_tokens / self.num_completions
        return self.wasted_tokens + at_risk <= self.max_waste * self.num_tokens

    def count(self, num_tokens: int) -> None:
        """Count a completion that a tree has taken."""
        self.num_tokens += num_tokens
        self.num_completions += 1
