"""Where solutions are cut into steps: lines, entropy anchors, or places that mean nothing.

Invariant: a cut before a token depends on the tokens before it alone, so solutions that share a prefix share its steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from forkpoint.steps import AnchorRule, Path, token_steps

CUTS = ("newline", "entropy", "random", "solution")


def steps_of(
    path: Path, how: str, rule: AnchorRule, random_rate: float
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The steps, and the number of tokens up to each step's end. `random_rate` is the share of tokens that are cut before."""
    if how == "random":
        return token_steps(path.token_texts, random_starts(path.completion.token_ids, random_rate))
    if how == "newline":
        return path.steps("newline", rule)
    return path.steps("entropy" if how == "entropy" else "solution", rule)


def random_starts(token_ids: Sequence[int], rate: float) -> list[int]:
    """Positions drawn with probability `rate` each, by a hash of all tokens before them."""
    digest = hashlib.blake2b(digest_size=8)
    starts = []
    for position, token_id in enumerate(token_ids):
        if int.from_bytes(digest.copy().digest(), "big") < rate * 2**64:
            starts.append(position)
        digest.update(token_id.to_bytes(4, "big"))
    return starts
