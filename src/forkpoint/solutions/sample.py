"""Independent samples from any prefix: the HT baseline (of the prompt) and rollouts (of a step's prefix).

Invariant: sample k of a prefix depends on the policy, the prefix, the settings, the seed and k alone, so more
samples can be added later without changing the first ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from forkpoint.checks import check_at_least, check_within
from forkpoint.policies.jobs import Job, done_jobs
from forkpoint.records import Completion, Cost, Policy, Request


@dataclass(frozen=True)
class RolloutConfig:
    """How samples are drawn."""

    num_samples: int = 16
    """Samples per prefix."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 512
    """Maximum number of tokens of a sample."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, num_samples=self.num_samples, max_tokens=self.max_tokens)
        check_at_least(0, temperature=self.temperature)
        check_within("(0, 1]", top_p=self.top_p)


def sample(
    policy: Policy,
    prefixes: Sequence[tuple[int, ...]],
    config: RolloutConfig,
    max_tokens: Sequence[int] | None = None,
    spans: Sequence[range] | None = None,
) -> list[tuple[list[Completion], Cost]]:
    """`num_samples` completions of every prefix, with their cost.

    Per prefix, `max_tokens` overrides the configured limit, and `spans` gives the numbers of the samples to
    draw (None: 0 .. num_samples - 1).
    """
    limits = max_tokens or [config.max_tokens] * len(prefixes)
    spans = spans or [range(config.num_samples)] * len(prefixes)
    groups = [
        Samples(prefix, config, limit, span)
        for prefix, limit, span in zip(prefixes, limits, spans, strict=True)
    ]
    for _ in done_jobs(policy, enumerate(groups)):
        pass
    return [(group.completions, group.cost) for group in groups]


class Samples(Job):
    """Some samples of one prefix, each asked for at once."""

    def __init__(
        self, prefix: tuple[int, ...], config: RolloutConfig, max_tokens: int, span: range | None = None
    ) -> None:
        """The samples with the numbers in `span` (None: 0 .. num_samples - 1)."""
        self._requests = [
            Request(
                prefix,
                max_tokens,
                config.temperature,
                config.top_p,
                sample_seed(prefix, config.seed, sample_idx),
            )
            for sample_idx in (range(config.num_samples) if span is None else span)
        ]
        self._num_asked = 0
        self._found: dict[Request, Completion] = {}

    @property
    def is_done(self) -> bool:
        return len(self._found) == len(self._requests)

    def next_request(self) -> Request | None:
        if self._num_asked == len(self._requests):
            return None
        self._num_asked += 1
        return self._requests[self._num_asked - 1]

    def absorb(self, request: Request, completion: Completion) -> None:
        self._found[request] = completion

    @property
    def completions(self) -> list[Completion]:
        """All samples, in the order of their numbers, once the job is done.

        What they reused is counted as if they had an engine with a cache for themselves, in which the first
        one computes the prefix: it does not depend on what is sampled beside them.
        """
        return [
            replace(self._found[request], num_reused_tokens=len(request.prefix_ids) if idx else 0)
            for idx, request in enumerate(self._requests)
        ]

    @property
    def cost(self) -> Cost:
        return Cost.of(self._requests, self.completions)


def sample_seed(prefix_ids: Sequence[int], seed: int, sample_idx: int) -> int:
    """A 63-bit seed; it depends on the prefix too, so that samples of different prefixes are independent."""
    content = f"{seed}/{sample_idx}/{','.join(map(str, prefix_ids))}"
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1
