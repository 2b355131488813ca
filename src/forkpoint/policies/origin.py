"""What policies that are loaded from a checkpoint have in common: they are loaded again elsewhere, and refuse what does not fit.

A policy is pickled as `load_again` with its class, its name and the arguments of its `load`; one of them is `path_or_id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.utils import logging

from forkpoint.records import Request


def load_again(cls: Any, name: str, origin: dict[str, Any]) -> Any:
    """The policy called `name` from where it came from. ValueError where another checkpoint lies there by now."""
    shows_bars = logging.is_progress_bar_enabled()
    # the first loading showed one; those of several processes would be drawn over each other
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        policy = cls.load(**origin)
    finally:
        if shows_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if policy.name != name:
        raise ValueError(
            f"{origin['path_or_id']} held {name} when it was loaded and holds {policy.name} now; load the policy again"
        )
    return policy


def refuse_too_long(requests: Sequence[Request], limit: int | None, name: str) -> None:
    """ValueError for a request whose prefix and `max_tokens` exceed the `limit` of the policy called `name`; None: no limit."""
    for request in requests:
        if limit is not None and len(request.prefix_ids) + request.max_tokens > limit:
            raise ValueError(
                f"a prefix of {len(request.prefix_ids)} tokens and max_tokens {request.max_tokens} do not fit into "
                f"the {limit} positions of {name}; shorten one of them"
            )
