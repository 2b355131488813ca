"""Bound the entropy of a next-token distribution of which an engine returns only the most probable tokens.

Engines return the k most probable tokens of a position (k is 20 in most servers), and also the token that was
taken if it is not one of them. Nothing here guesses a value inside the interval: the caller decides which end
to report.
Invariant: the interval contains the entropy of every distribution that agrees with the given
log-probabilities; both of its ends are entropies of such distributions, and they are equal if the whole
vocabulary is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from forkpoint.records import Completion, Finish

Bound = Literal["lower", "upper"]
BOUNDS: tuple[Bound, ...] = ("lower", "upper")


def entropy_interval(logprobs: Mapping[int, float], vocab_size: int, num_top: int) -> tuple[float, float]:
    """The lowest and the highest entropy, in nats, that a distribution with these log-probabilities can have.

    The distribution is over `vocab_size` tokens; `logprobs` holds the `num_top` most probable tokens and
    possibly others, by token id. The rest of the probability, the tail, belongs to the other tokens, none of
    which is more probable than the last of the `num_top`. The entropy is highest if the tail is spread evenly
    over them, and lowest if it lies on as few of them as possible. Raises ValueError if fewer than `num_top`
    or more than `vocab_size` tokens are given.
    """
    if not 1 <= num_top <= len(logprobs) <= vocab_size:
        raise ValueError(
            f"{len(logprobs)} tokens were given; "
            f"the top {num_top} of {vocab_size} need {num_top} to {vocab_size}"
        )
    known = max(
        0.0, -sum(math.exp(logprob) * logprob for logprob in logprobs.values() if logprob > -math.inf)
    )
    tail = 1.0 - math.fsum(math.exp(logprob) for logprob in logprobs.values())
    num_others = vocab_size - len(logprobs)
    if num_others == 0 or tail <= 0.0:  # with nothing left, rounding can still leave a tail
        return known, known
    highest = math.exp(sorted(logprobs.values(), reverse=True)[num_top - 1])
    even = -tail * math.log(tail / num_others)
    if highest * num_others <= tail:  # rounding again: all other tokens are as probable as they may be
        return known + even, known + even
    num_full, rest = divmod(tail, highest)
    lowest = -(num_full * _plogp(highest) + _plogp(rest))
    return known + min(lowest, even), known + even


def completion_from_top(
    token_ids: Sequence[int],
    logprobs: Sequence[Mapping[int, float]],
    finish: Finish,
    *,
    vocab_size: int,
    num_top: int,
    bound: Bound,
    num_reused_tokens: int = 0,
) -> Completion:
    """The completion with the given log-probabilities of some tokens at each position.

    These tokens are the `num_top` most probable ones and the one that was taken. Its entropies are the lower
    or the upper ends of their intervals. `num_top` must be at least 2, for a runner-up.
    """
    runners_up = [
        _most_probable(known, token_id) for token_id, known in zip(token_ids, logprobs, strict=True)
    ]
    intervals = [entropy_interval(known, vocab_size, num_top) for known in logprobs]
    return Completion(
        token_ids=tuple(token_ids),
        logprobs=tuple(known[token_id] for token_id, known in zip(token_ids, logprobs, strict=True)),
        entropies=tuple(interval[BOUNDS.index(bound)] for interval in intervals),
        runner_up_ids=tuple(runners_up),
        runner_up_logprobs=tuple(
            known[runner_up] for runner_up, known in zip(runners_up, logprobs, strict=True)
        ),
        finish=finish,
        num_reused_tokens=num_reused_tokens,
    )


def _most_probable(logprobs: Mapping[int, float], but: int) -> int:
    """The most probable token other than `but`; among equals the one with the lowest id."""
    return min(
        (token_id for token_id in logprobs if token_id != but),
        key=lambda token_id: (-logprobs[token_id], token_id),
    )


def _plogp(p: float) -> float:
    return p * math.log(p) if p > 0 else 0.0
