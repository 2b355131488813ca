"""Cut solutions into steps at line ends, at entropy anchors, or at meaningless places.

Invariant: a cut depends only on the tokens before it, so solutions that share a prefix share its steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from forkpoint.steps import AnchorRule, Path, token_steps

CUTS = ("newline", "entropy", "random", "solution")


def steps_of(
    path: Path, how: str, rule: AnchorRule, random_rate: float
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the steps and the number of tokens up to the end of each.

    `random_rate` is the share of cut tokens.
    """
    if how == "random":
        return token_steps(path.token_texts, random_starts(path.completion.token_ids, random_rate))
    if how == "newline":
        return path.steps("newline", rule)
    return path.steps("entropy" if how == "entropy" else "solution", rule)


def random_starts(token_ids: Sequence[int], rate: float) -> list[int]:
    """Draw each position with probability `rate`, by a hash of all tokens before it."""
    digest = hashlib.blake2b(digest_size=8)
    starts = []
    for position, token_id in enumerate(token_ids):
        if int.from_bytes(digest.copy().digest(), "big") < rate * 2**64:
            starts.append(position)
        digest.update(token_id.to_bytes(4, "big"))
    return starts
