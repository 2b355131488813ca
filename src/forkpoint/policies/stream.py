"""Feed a policy while it works: requests are pulled when it has room, completions come back as they finish.

A policy that has only `generate` is fed in batches of what is ready. A list of requests is the simplest
source.
Invariant: whoever iterates has taken in a completion before the policy pulls again, in this thread. The
request that comes back with a completion equals the one that was pulled; equal requests have equal
completions, so it does not matter which of them is answered first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from forkpoint.records import Completion, Policy, Request, RequestSource, StreamingPolicy

BATCH = 64
"""The most requests in one call of a policy that has only `generate`."""

Completions = Iterator[tuple[Request, Completion]]


class ListSource:
    """The requests of a list, in its order."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._waiting = deque(requests)

    def next(self, room: int) -> list[Request]:
        return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]


def completions_of(policy: Policy, source: RequestSource) -> Completions:
    """The completions of the requests of `source`, in any order, whether the policy streams or not."""
    if is_streaming(policy):
        return cast(StreamingPolicy, policy).stream(source)
    return in_batches(policy.generate, source, BATCH)


def is_streaming(policy: Policy) -> bool:
    """Whether a policy can be fed while it works.

    A class that defines `generate` anew and not `stream` is not fed, since its `generate` would be passed by.
    """
    for cls in type(policy).__mro__:
        if "stream" in vars(cls) or "generate" in vars(cls):
            return "stream" in vars(cls)
    return False


def in_batches(
    generate: Callable[[Sequence[Request]], Sequence[Completion]], source: RequestSource, batch_size: int
) -> Completions:
    """The completions of what is ready, up to `batch_size` requests per call of `generate`."""
    while requests := source.next(batch_size):
        yield from zip(requests, generate(requests), strict=True)


def in_order(requests: Sequence[Request], completions: Completions) -> list[Completion]:
    """One completion per request, in the order of the requests."""
    idxs: defaultdict[Request, deque[int]] = defaultdict(deque)
    for idx, request in enumerate(requests):
        idxs[request].append(idx)
    found: dict[int, Completion] = {}
    for request, completion in completions:
        found[idxs[request].popleft()] = completion
    return [found[idx] for idx in range(len(requests))]
