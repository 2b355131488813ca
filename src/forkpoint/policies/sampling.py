"""Take the next token of every row of a batch from its logits, and observe its position.

Invariant: a row depends on its own logits, settings and random key only, never on the other rows of the
batch: each (key, step) has one uniform number, from a counter-based hash, and the inverse CDF runs in
token-id order in float64.
This file keeps no state and knows no model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit number, like the two below
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


@dataclass(frozen=True, slots=True)
class Taken:
    """One token per row and the observations at its position.

    Log-probabilities and entropies are those at temperature 1, in nats.
    """

    ids_B: Tensor
    runner_up_ids_B: Tensor
    logprobs_B: Tensor
    entropies_B: Tensor
    runner_up_logprobs_B: Tensor


def random_key(seed: int) -> int:
    """A signed 64-bit key from any integer seed; the keys of neighbouring seeds are unrelated."""
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big", signed=True)


def uniforms(keys_B: Tensor, steps_B: Tensor) -> Tensor:
    """One float64 in [0, 1) per row: splitmix64 (Steele et al., 2014) of the key at counter `steps_B`.

    It has 52 bits, so that the product with any positive total stays below that total after rounding.
    """
    x_B = keys_B + (steps_B + 1) * _GAMMA
    x_B = (x_B ^ _shift_right(x_B, 30)) * _MIX_1
    x_B = (x_B ^ _shift_right(x_B, 27)) * _MIX_2
    x_B = x_B ^ _shift_right(x_B, 31)
    return _shift_right(x_B, 12).double() * 2.0**-52


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """The logical shift that signed integers lack."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample(logits_B_V: Tensor, temperatures_B: Tensor, top_ps_B: Tensor | None, uniforms_B: Tensor) -> Tensor:
    """Token ids by inverse CDF over softmax(logits / temperature).

    If `top_ps_B` is given, the distribution is truncated to the nucleus. The nucleus is the smallest set of
    most probable tokens with a total probability of at least `top_p`. Temperatures must be above 0.
    """
    probs_B_V = torch.softmax(logits_B_V.double() / temperatures_B.double()[:, None], dim=-1)
    if top_ps_B is not None:
        sorted_B_V, order_B_V = probs_B_V.sort(dim=-1, descending=True, stable=True)
        before_B_V = sorted_B_V.cumsum(-1) - sorted_B_V
        is_out_B_V = (before_B_V >= top_ps_B[:, None]) & (top_ps_B[:, None] < 1)
        is_out_B_V[:, 0] = False
        probs_B_V = torch.zeros_like(probs_B_V).scatter_(
            1, order_B_V, sorted_B_V.masked_fill_(is_out_B_V, 0.0)
        )
    cdf_B_V = probs_B_V.cumsum(-1)
    return torch.searchsorted(cdf_B_V, uniforms_B[:, None] * cdf_B_V[:, -1:], right=True)[:, 0]


def take(
    logits_B_V: Tensor, temperatures_B: Tensor, top_ps_B: Tensor | None, uniforms_B: Tensor | None
) -> Taken:
    """The next token of every row: the most probable one if the temperature is 0, else a sample.

    `uniforms_B` may be None if all rows are greedy, and `top_ps_B` if no row is truncated; both save work and
    change nothing.
    """
    logits_B_V = logits_B_V.float()
    ids_B = logits_B_V.argmax(-1)
    if uniforms_B is not None:
        is_greedy_B = temperatures_B == 0
        sampled_B = sample(logits_B_V, torch.where(is_greedy_B, 1.0, temperatures_B), top_ps_B, uniforms_B)
        ids_B = torch.where(is_greedy_B, ids_B, sampled_B)
    logprobs_B_V = torch.log_softmax(logits_B_V, dim=-1)
    lowest = torch.finfo(logprobs_B_V.dtype).min  # for an impossible token, 0 * -inf would be NaN
    entropies_B = -(logprobs_B_V.exp() * logprobs_B_V.clamp(min=lowest)).sum(-1)
    logprobs_B = logprobs_B_V.gather(1, ids_B[:, None])[:, 0]
    runner_up_logprobs_B, runner_up_ids_B = logprobs_B_V.scatter_(1, ids_B[:, None], -torch.inf).max(-1)
    return Taken(ids_B, runner_up_ids_B, logprobs_B, entropies_B, runner_up_logprobs_B)
