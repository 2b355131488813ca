"""Decode with whatever cache a model creates: prefixes of one length at a time, no padding, no reuse.

This is exact for every model with a cache, but wasteful: finished rows stay in the batch until the last one
is done, and only then are the next requests pulled.
Invariant: a batch holds prefixes of one length only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from forkpoint.policies.decoding import RowStates
from forkpoint.policies.stream import Completions
from forkpoint.records import Completion, Request, RequestSource


def decode_in_equal_lengths(
    model: PreTrainedModel, source: RequestSource, eos_ids: frozenset[int], batch_size: int
) -> Completions:
    """The completions of the requests of `source`, one batch of equal prefix lengths after the other."""
    waiting: list[Request] = []
    while True:
        waiting += source.next(batch_size - len(waiting))
        if not waiting:
            return
        by_length = sorted(waiting, key=lambda request: len(request.prefix_ids))
        groups = [list(group) for _, group in groupby(by_length, key=lambda request: len(request.prefix_ids))]
        batch = max(groups, key=len)
        chosen = set(map(id, batch))
        waiting = [request for request in waiting if id(request) not in chosen]
        yield from zip(batch, _decode_batch(model, batch, eos_ids), strict=True)


@torch.inference_mode()
def _decode_batch(
    model: PreTrainedModel, requests: Sequence[Request], eos_ids: frozenset[int]
) -> list[Completion]:
    states = RowStates(len(requests), max(request.max_tokens for request in requests), eos_ids, model.device)
    states.start(0, requests)
    samples = any(request.temperature > 0 for request in requests)
    truncates = any(request.top_p < 1 for request in requests)
    ids_B_Q = torch.tensor([request.prefix_ids for request in requests], device=model.device)
    mask_B_T = torch.ones_like(ids_B_Q)
    cache = DynamicCache(config=model.config)
    finished: dict[int, Completion] = {}
    while len(finished) < len(requests):
        logits_B_V = model(
            input_ids=ids_B_Q, attention_mask=mask_B_T, past_key_values=cache, use_cache=True
        ).logits[:, -1]
        is_done = states.take(0, logits_B_V, samples, truncates).tolist()
        rows = [row for row in range(len(requests)) if is_done[row] and row not in finished]
        if rows:
            finished.update(zip(rows, states.completions(rows, [0] * len(rows), eos_ids), strict=True))
        ids_B_Q = states.last_ids_R[:, None]
        mask_B_T = torch.cat((mask_B_T, torch.ones_like(ids_B_Q)), dim=1)
    return [finished[row] for row in range(len(requests))]
