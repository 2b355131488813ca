"""The decoding loop: requests join the batch when rows are free, and leave it when they are finished.

The n active sequences fill rows 0 to n-1 of the buffers without a gap; when some finish, the last rows move
into their places. Waiting requests join in groups once enough rows are free, after a forward pass over the
tokens that are not cached.
Invariant: everything that belongs to a sequence (keys and values, settings, observations of its tokens) is in
its row, so moving a row is a copy and the loop itself holds no state per token.
This file knows no tokenizers and does not choose what to generate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from forkpoint.policies.kv_rows import KVRows
from forkpoint.policies.prefix_cache import Match, PrefixCache
from forkpoint.policies.sampling import random_key, take, uniforms
from forkpoint.records import Completion, Request

PREFILL_TOKENS = 8192
"""The most tokens in one forward pass over prefixes, padding included. It bounds the memory of the pass."""
MAX_PADDING = 0.25
"""The largest share of padding among the tokens of such a pass; a pass with more is split."""
REFILL = 4
"""Waiting requests join when one in `REFILL` rows is free: often enough to keep the batch full, and in groups
large enough for one pass over their prefixes to be cheap."""


class RowStates:
    """The state of each row besides its keys and values: position, sampling settings and observations.

    The observations of the tokens that a row has taken are in columns 0 to `num_taken - 1`.
    """

    def __init__(
        self, num_rows: int, num_columns: int, eos_ids: frozenset[int], device: torch.device
    ) -> None:
        def empty(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.last_ids_R, self.lengths_R, self.keys_R, self.num_taken_R, self.max_tokens_R = (
            empty(num_rows) for _ in range(5)
        )
        self.temperatures_R, self.top_ps_R = (empty(num_rows, dtype=torch.double) for _ in range(2))
        self.ids_2_R_T = empty(2, num_rows, num_columns)
        self.floats_3_R_T = empty(3, num_rows, num_columns, dtype=torch.float32)
        self._eos_ids = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)

    def start(self, first_row: int, requests: Sequence[Request]) -> None:
        """Initialize the rows from `first_row` on for requests whose prefixes have been computed."""
        rows = slice(first_row, first_row + len(requests))
        ints = [(len(r.prefix_ids), random_key(r.seed), 0, r.max_tokens) for r in requests]
        fields = (self.lengths_R, self.keys_R, self.num_taken_R, self.max_tokens_R)
        for field, values in zip(fields, zip(*ints, strict=True), strict=True):
            field[rows] = torch.tensor(values, device=field.device)
        self.temperatures_R[rows] = torch.tensor([r.temperature for r in requests], dtype=torch.double)
        self.top_ps_R[rows] = torch.tensor([r.top_p for r in requests], dtype=torch.double)

    def take(self, first_row: int, logits_B_V: Tensor, samples: bool, truncates: bool) -> Tensor:
        """Take the next token of the rows from `first_row` on; return which of them are finished, [B]."""
        rows = slice(first_row, first_row + len(logits_B_V))
        steps_B = self.num_taken_R[rows]
        uniforms_B = uniforms(self.keys_R[rows], steps_B) if samples else None
        taken = take(
            logits_B_V, self.temperatures_R[rows], self.top_ps_R[rows] if truncates else None, uniforms_B
        )
        row_idxs_B = torch.arange(rows.start, rows.stop, device=logits_B_V.device)
        self.ids_2_R_T[:, row_idxs_B, steps_B] = torch.stack((taken.ids_B, taken.runner_up_ids_B))
        self.floats_3_R_T[:, row_idxs_B, steps_B] = torch.stack(
            (taken.logprobs_B, taken.entropies_B, taken.runner_up_logprobs_B)
        )
        self.last_ids_R[rows] = taken.ids_B
        self.num_taken_R[rows] += 1
        self.lengths_R[rows] += 1
        return torch.isin(taken.ids_B, self._eos_ids) | (self.num_taken_R[rows] >= self.max_tokens_R[rows])

    def copy(self, sources: list[int], targets: list[int]) -> None:
        """Copy the state of some rows to other rows; no row is both a source and a target."""
        counts = (self.last_ids_R, self.lengths_R, self.num_taken_R, self.max_tokens_R)
        for field in (*counts, self.keys_R, self.temperatures_R, self.top_ps_R):
            field[targets] = field[sources]
        self.ids_2_R_T[:, targets] = self.ids_2_R_T[:, sources]
        self.floats_3_R_T[:, targets] = self.floats_3_R_T[:, sources]

    def completions(
        self, rows: list[int], num_reused: Sequence[int], eos_ids: frozenset[int]
    ) -> list[Completion]:
        """The completions of finished rows, with one transfer from the device for all of them."""
        nums_taken = self.num_taken_R[rows].tolist()
        ids_2_F_T = self.ids_2_R_T[:, rows, : max(nums_taken)].cpu()
        floats_3_F_T = self.floats_3_R_T[:, rows, : max(nums_taken)].cpu()
        completions = []
        for idx, num_taken in enumerate(nums_taken):
            token_ids, runner_up_ids = ids_2_F_T[:, idx, :num_taken].tolist()
            logprobs, entropies, runner_up_logprobs = floats_3_F_T[:, idx, :num_taken].tolist()
            completions.append(
                Completion(
                    token_ids=tuple(token_ids),
                    logprobs=tuple(logprobs),
                    entropies=tuple(entropies),
                    runner_up_ids=tuple(runner_up_ids),
                    runner_up_logprobs=tuple(runner_up_logprobs),
                    finish="stop" if token_ids[-1] in eos_ids else "length",
                    num_reused_tokens=num_reused[idx],
                )
            )
        return completions


@dataclass(slots=True)
class _Active:
    """A request in the batch. The index of an `_Active` in the list is the row of its sequence."""

    request_idx: int
    num_reused: int
    age: int
    """The number of passes that the batch had made when the row joined. The sequence has the length of its
    prefix plus the number of passes since then."""


@dataclass(slots=True)
class _Prefill:
    """A prefix to compute, and the requests whose prefix it is."""

    request_idxs: list[int]
    match: Match
    """The part of the prefix that is cached."""
    num_tokens: int
    """The length of the prefix."""

    @property
    def num_tail(self) -> int:
        """Tokens at the end of the prefix that the model has to compute."""
        return self.num_tokens - self.match.num_tokens


class BatchDecoder:
    """Decodes one list of requests; rows and prefixes are the caller's and stay warm between lists."""

    def __init__(
        self,
        rows: KVRows,
        prefixes: PrefixCache,
        eos_ids: frozenset[int],
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._rows, self._prefixes, self._eos_ids, self._batch_size, self._device = (
            rows,
            prefixes,
            eos_ids,
            batch_size,
            device,
        )

    def decode(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the same order."""
        self._requests = requests
        self._num_rows = min(self._batch_size, len(requests))
        self._states = RowStates(
            self._num_rows, max(request.max_tokens for request in requests), self._eos_ids, self._device
        )
        self._samples = any(request.temperature > 0 for request in requests)
        self._truncates = any(request.temperature > 0 and request.top_p < 1 for request in requests)
        self._completions: dict[int, Completion] = {}
        self._active: list[_Active] = []
        self._num_passes = 0
        # the longest first, so that the batch stays full for long; equal prefixes and lengths side by side
        order = sorted(
            range(len(requests)),
            key=lambda i: (-requests[i].max_tokens, -len(requests[i].prefix_ids), requests[i].prefix_ids),
        )
        waiting = deque(order)
        while waiting or self._active:
            num_free = self._num_rows - len(self._active)
            if waiting and num_free >= min(len(waiting), max(1, self._num_rows // REFILL)):
                self._admit([waiting.popleft() for _ in range(min(num_free, len(waiting)))])
            else:
                self._step()
        return [self._completions[idx] for idx in range(len(requests))]

    def _step(self) -> None:
        """Take one more token in every active row."""
        num_active = len(self._active)
        self._rows.fit(self._num_rows, self._max_length(), num_active)
        ids_B_1, positions_B_1 = (
            self._states.last_ids_R[:num_active, None],
            self._states.lengths_R[:num_active, None] - 1,
        )
        logits_B_V = self._rows.forward(0, ids_B_1, positions_B_1)
        self._num_passes += 1
        self._take(0, logits_B_V)

    def _max_length(self) -> int:
        """The length of the longest active sequence, its next token included."""
        return self._num_passes + max(
            len(self._requests[a.request_idx].prefix_ids) + 1 - a.age for a in self._active
        )

    def _take(self, first_row: int, logits_B_V: Tensor) -> None:
        """Take a token in the rows from `first_row` on, and retire those that it finishes."""
        is_done_B = self._states.take(first_row, logits_B_V, self._samples, self._truncates)
        if bool(is_done_B.any()):
            self._retire([first_row + idx for idx in is_done_B.nonzero()[:, 0].tolist()])

    def _retire(self, done_rows: list[int]) -> None:
        """Store the completions of finished rows, cache their keys, and move the last rows into the gaps."""
        actives = [self._active[row] for row in done_rows]
        completions = self._states.completions(
            done_rows, [active.num_reused for active in actives], self._eos_ids
        )
        self._completions.update(zip((active.request_idx for active in actives), completions, strict=True))
        prefixes = [self._requests[active.request_idx].prefix_ids for active in actives]
        known_ids = [
            prefix_ids + completion.token_ids[:-1]
            for prefix_ids, completion in zip(prefixes, completions, strict=True)
        ]
        self._prefixes.insert(self._rows, dict(zip(done_rows, known_ids, strict=True)))
        num_left = len(self._active) - len(done_rows)
        done = set(done_rows)
        targets = [row for row in done_rows if row < num_left]
        sources = [row for row in range(num_left, len(self._active)) if row not in done]
        if sources:
            self._rows.copy(sources, targets, self._max_length())
            self._states.copy(sources, targets)
            for source, target in zip(sources, targets, strict=True):
                self._active[target] = self._active[source]
        del self._active[num_left:]

    def _admit(self, request_idxs: list[int]) -> None:
        """Let requests join the batch in the free rows after the active ones, and take their first tokens.

        Requests with equal prefixes share the work: the first of them computes what the cache lacks of the
        prefix, the others get a copy of its row.
        """
        first_row = len(self._active)
        prefills = self._prefills(request_idxs)
        num_unique = len(prefills)
        longest = max(prefill.num_tokens for prefill in prefills)

        # 1. Make room: columns for the longest prefix, old or new, while the active rows keep what they hold.
        width = max(longest, self._max_length()) if self._active else longest
        self._rows.fit(self._num_rows, width, first_row)

        # 2. Compute each distinct prefix in its row: load what is cached, run the model over the rest.
        self._prefixes.load(
            self._rows, {first_row + idx: prefill.match for idx, prefill in enumerate(prefills)}
        )
        logits_U_V = torch.cat([self._prefill(first, group) for first, group in _groups(prefills, first_row)])

        # 3. Copy those rows for the other requests with the same prefixes.
        copies = [
            (unique_idx, request_idx)
            for unique_idx, prefill in enumerate(prefills)
            for request_idx in prefill.request_idxs[1:]
        ]
        if copies:
            sources = [first_row + unique_idx for unique_idx, _ in copies]
            targets = [first_row + num_unique + copy_idx for copy_idx in range(len(copies))]
            self._rows.copy(sources, targets, longest)

        # 4. Write down who is in which row, in the order of the rows.
        for prefill in prefills:
            self._active.append(_Active(prefill.request_idxs[0], prefill.match.num_tokens, self._num_passes))
        for unique_idx, request_idx in copies:
            self._active.append(_Active(request_idx, prefills[unique_idx].num_tokens, self._num_passes))
        admitted = [self._requests[active.request_idx] for active in self._active[first_row:]]
        self._states.start(first_row, admitted)

        # 5. Take the first token of every new row from the logits of its prefix.
        unique_idxs = [*range(num_unique), *(unique_idx for unique_idx, _ in copies)]
        self._take(first_row, logits_U_V[torch.tensor(unique_idxs, device=self._device)])

    def _prefills(self, request_idxs: Sequence[int]) -> list[_Prefill]:
        """The distinct prefixes of requests, those with the fewest tokens to compute first."""
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for idx in request_idxs:
            by_prefix.setdefault(self._requests[idx].prefix_ids, []).append(idx)
        prefills = [
            _Prefill(idxs, self._prefixes.match(prefix_ids[:-1]), len(prefix_ids))
            for prefix_ids, idxs in by_prefix.items()
        ]
        return sorted(prefills, key=lambda prefill: prefill.num_tail)

    def _prefill(self, first_row: int, prefills: Sequence[_Prefill]) -> Tensor:
        """Compute prefixes in the rows from `first_row` on, in one pass; return next-token logits, [B, V]."""
        prefixes = [self._requests[prefill.request_idxs[0]].prefix_ids for prefill in prefills]
        num_fed = max(prefill.num_tail for prefill in prefills)
        ids_B_Q = torch.zeros((len(prefills), num_fed), dtype=torch.long)
        positions_B_Q = torch.full((len(prefills), num_fed), -1)
        for idx, (prefill, prefix_ids) in enumerate(zip(prefills, prefixes, strict=True)):
            ids_B_Q[idx, num_fed - prefill.num_tail :] = torch.tensor(prefix_ids[prefill.match.num_tokens :])
            positions_B_Q[idx, num_fed - prefill.num_tail :] = torch.arange(
                prefill.match.num_tokens, len(prefix_ids)
            )
        logits_B_V = self._rows.forward(first_row, ids_B_Q.to(self._device), positions_B_Q.to(self._device))
        self._prefixes.insert(
            self._rows, {first_row + idx: prefix_ids for idx, prefix_ids in enumerate(prefixes)}
        )
        return logits_B_V


def _groups(prefills: Sequence[_Prefill], first_row: int) -> list[tuple[int, list[_Prefill]]]:
    """Cut prefixes, sorted by `num_tail`, into passes with little padding, each with its first row."""
    groups: list[tuple[int, list[_Prefill]]] = []
    num_tokens = 0
    for idx, prefill in enumerate(prefills):
        num_tokens += prefill.num_tail
        if groups:
            num_padded = (len(groups[-1][1]) + 1) * prefill.num_tail
            if num_padded <= PREFILL_TOKENS and num_padded - num_tokens <= MAX_PADDING * num_padded:
                groups[-1][1].append(prefill)
                continue
        groups.append((first_row + idx, [prefill]))
        num_tokens = prefill.num_tail
    return groups


def decode_in_equal_lengths(
    model: PreTrainedModel, requests: Sequence[Request], eos_ids: frozenset[int], batch_size: int
) -> list[Completion]:
    """Decode with whatever cache the model creates: prefixes of one length at a time, no padding, no reuse.

    This is exact for every model with a cache, but wasteful: finished rows stay in the batch until the last
    one is done.
    """
    completions: dict[int, Completion] = {}
    order = sorted(range(len(requests)), key=lambda idx: len(requests[idx].prefix_ids))
    for _, same_length in groupby(order, key=lambda idx: len(requests[idx].prefix_ids)):
        idxs = list(same_length)
        for start in range(0, len(idxs), batch_size):
            chunk = idxs[start : start + batch_size]
            done = _decode_chunk(model, [requests[idx] for idx in chunk], eos_ids)
            completions.update(zip(chunk, done, strict=True))
    return [completions[idx] for idx in range(len(requests))]


def _decode_chunk(
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
