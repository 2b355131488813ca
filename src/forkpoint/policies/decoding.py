"""The decoding loop: requests join the batch when rows are free, and leave it when they are finished.

The n active sequences fill rows 0 to n-1 of the buffers without a gap; when some finish, the last rows move
into their places, and new requests are pulled. A request whose prefix is cached up to the last token, as that
of most forks is, joins the next pass. The others join in groups, after a forward pass over the tokens that
are not cached.
Invariant: everything that belongs to a sequence (keys and values, settings, observations of its tokens) is in
its row, so moving a row is a copy and the loop itself holds no state per token.
This file knows no tokenizers and does not choose what to generate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forkpoint.policies.kv_rows import KVRows
from forkpoint.policies.prefix_cache import Match, PrefixCache
from forkpoint.policies.sampling import random_key, take, uniforms
from forkpoint.records import Completion, Request, RequestSource

PREFILL_TOKENS = 8192
"""The most tokens in one forward pass over prefixes, padding included. It bounds the memory of the pass."""
MAX_PADDING = 0.25
"""The largest share of padding among the tokens of such a pass; a pass with more is split."""
IDLE = 0.5
"""Requests whose prefixes have to be computed join together, in one pass over all of them, as soon as the
rows that waited for them were empty for this share of a pass of the whole batch: about what that pass
costs."""


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
        self._eos = eos_ids
        self._eos_ids = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)

    def fit(self, num_rows: int, num_columns: int, num_kept: int) -> None:
        """Make room for `num_rows` rows and `num_columns` tokens; the first `num_kept` rows keep their state.

        Columns grow by half at least, so that many small steps cost no more than a few large ones.
        """
        _, old_rows, old_columns = self.ids_2_R_T.shape
        if num_rows <= old_rows and num_columns <= old_columns:
            return
        new_rows = max(num_rows, old_rows)
        new_columns = old_columns if num_columns <= old_columns else max(num_columns, old_columns * 3 // 2)
        old = vars(self).copy()
        self.__init__(new_rows, new_columns, self._eos, self.last_ids_R.device)  # type: ignore[misc]
        for name, field in old.items():
            if name.endswith("_R"):
                getattr(self, name)[:num_kept] = field[:num_kept]
            elif name.endswith("_R_T"):
                getattr(self, name)[:, :num_kept, :old_columns] = field[:, :num_kept]

    def start(self, first_row: int, requests: Sequence[Request]) -> None:
        """Initialize the rows from `first_row` on for requests whose prefixes are in the rows.

        All tokens of a prefix have been computed, or all but the last one.
        """
        rows = slice(first_row, first_row + len(requests))
        ints = [(r.prefix_ids[-1], len(r.prefix_ids), random_key(r.seed), 0, r.max_tokens) for r in requests]
        fields = (self.last_ids_R, self.lengths_R, self.keys_R, self.num_taken_R, self.max_tokens_R)
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

    request: Request
    num_reused: int
    age: int
    """The number of passes that the batch had made when the row joined. The sequence has the length of its
    prefix plus the number of passes since then."""


@dataclass(slots=True)
class _Prefill:
    """A prefix to compute, and the requests whose prefix it is."""

    requests: list[Request]
    match: Match
    """The part of the prefix that is cached."""

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        return self.requests[0].prefix_ids

    @property
    def num_tail(self) -> int:
        """Tokens at the end of the prefix that the model has to compute."""
        return len(self.prefix_ids) - self.match.num_tokens


class StreamDecoder:
    """Decodes the requests of one source; prefixes are the caller's and stay warm between streams.

    No one else may use the rows before the stream has ended.
    """

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
        self._states = RowStates(0, 0, eos_ids, device)
        self._active: list[_Active] = []
        self._waiting: list[Request] = []
        """Requests that were pulled, and wait until it pays to compute their prefixes."""
        self._num_idle = 0
        """Rows that were empty in the passes since the first of `_waiting` was pulled, counted per pass."""
        self._done: list[tuple[Request, Completion]] = []
        self._num_passes = self._num_rows = 0

    def stream(self, source: RequestSource) -> Iterator[tuple[Request, Completion]]:
        """The completions of the requests of `source`, in the order in which they are finished."""
        is_dry = False
        while True:
            room = self._batch_size - len(self._active) - len(self._waiting)
            if room and not is_dry:
                requests = source.next(room)
                is_dry = len(requests) < room
                self._take_in(requests)
            if self._waiting and (not self._active or self._num_idle >= IDLE * self._batch_size):
                self._admit(self._waiting)
                self._waiting, self._num_idle = [], 0
            elif self._active:
                self._num_idle += len(self._waiting)
                self._step()
            else:
                return
            if self._done:
                done, self._done = self._done, []
                yield from done
                is_dry = False

    @torch.inference_mode()
    def _take_in(self, requests: Sequence[Request]) -> None:
        """Let requests join the next pass if the cache has all but the last token of their prefixes.

        The others wait for each other.
        """
        ready: list[tuple[Request, Match]] = []
        for request in requests:
            match = self._prefixes.match(request.prefix_ids[:-1])
            if match.num_tokens == len(request.prefix_ids) - 1 and match.num_tokens:
                ready.append((request, match))
            else:
                self._waiting.append(request)
        if not ready:
            return
        first_row = len(self._active)
        self._make_room([request for request, _ in ready])
        self._prefixes.load(self._rows, {first_row + idx: match for idx, (_, match) in enumerate(ready)})
        self._active += [_Active(request, match.num_tokens, self._num_passes) for request, match in ready]
        self._states.start(first_row, [request for request, _ in ready])

    def _make_room(self, requests: Sequence[Request]) -> None:
        """Make room for rows after the active ones, which keep what they hold."""
        num_active = len(self._active)
        longest = max(len(request.prefix_ids) for request in requests)
        num_rows = num_active + len(requests)
        if num_rows > self._num_rows:
            self._num_rows = min(self._batch_size, max(num_rows, 2 * self._num_rows))
        self._rows.fit(self._num_rows, max(longest + 1, self._max_length()), num_active)
        num_columns = max(request.max_tokens for request in requests)
        self._states.fit(self._num_rows, num_columns, num_active)

    @torch.inference_mode()
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
        """The length of the longest active sequence, its next token included; 0 without a sequence."""
        lengths = (len(active.request.prefix_ids) + 1 - active.age for active in self._active)
        return max(lengths, default=-self._num_passes) + self._num_passes

    def _take(self, first_row: int, logits_B_V: Tensor) -> None:
        """Take a token in the rows from `first_row` on, and retire those that it finishes."""
        requests = [active.request for active in self._active[first_row:]]
        samples = any(request.temperature > 0 for request in requests)
        truncates = any(request.temperature > 0 and request.top_p < 1 for request in requests)
        is_done_B = self._states.take(first_row, logits_B_V, samples, truncates)
        if bool(is_done_B.any()):
            self._retire([first_row + idx for idx in is_done_B.nonzero()[:, 0].tolist()])

    def _retire(self, done_rows: list[int]) -> None:
        """Hand finished rows over, cache their keys, and move the last rows into the gaps."""
        actives = [self._active[row] for row in done_rows]
        completions = self._states.completions(
            done_rows, [active.num_reused for active in actives], self._eos_ids
        )
        requests = [active.request for active in actives]
        self._done += zip(requests, completions, strict=True)
        known_ids = [
            request.prefix_ids + completion.token_ids[:-1]
            for request, completion in zip(requests, completions, strict=True)
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

    @torch.inference_mode()
    def _admit(self, requests: Sequence[Request]) -> None:
        """Let requests join the batch in the free rows after the active ones, and take their first tokens.

        Requests with equal prefixes share the work: the first of them computes what the cache lacks of the
        prefix, the others get a copy of its row.
        """
        first_row = len(self._active)
        prefills = self._prefills(requests)
        num_unique = len(prefills)
        longest = max(len(prefill.prefix_ids) for prefill in prefills)

        # 1. Make room: columns for the longest prefix, old or new, while the active rows keep what they hold.
        self._make_room(requests)

        # 2. Compute each distinct prefix in its row: load what is cached, run the model over the rest.
        self._prefixes.load(
            self._rows, {first_row + idx: prefill.match for idx, prefill in enumerate(prefills)}
        )
        logits_U_V = torch.cat([self._prefill(first, group) for first, group in _groups(prefills, first_row)])

        # 3. Copy those rows for the other requests with the same prefixes.
        copies = [
            (unique_idx, request)
            for unique_idx, prefill in enumerate(prefills)
            for request in prefill.requests[1:]
        ]
        if copies:
            sources = [first_row + unique_idx for unique_idx, _ in copies]
            targets = [first_row + num_unique + copy_idx for copy_idx in range(len(copies))]
            self._rows.copy(sources, targets, longest)

        # 4. Write down who is in which row, in the order of the rows.
        for prefill in prefills:
            self._active.append(_Active(prefill.requests[0], prefill.match.num_tokens, self._num_passes))
        for _, request in copies:
            self._active.append(_Active(request, len(request.prefix_ids), self._num_passes))
        self._states.start(first_row, [active.request for active in self._active[first_row:]])

        # 5. Take the first token of every new row from the logits of its prefix.
        unique_idxs = [*range(num_unique), *(unique_idx for unique_idx, _ in copies)]
        self._take(first_row, logits_U_V[torch.tensor(unique_idxs, device=self._device)])

    def _prefills(self, requests: Sequence[Request]) -> list[_Prefill]:
        """The distinct prefixes of requests, those with the fewest tokens to compute first."""
        by_prefix: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            by_prefix.setdefault(request.prefix_ids, []).append(request)
        prefills = [
            _Prefill(same, self._prefixes.match(prefix_ids[:-1])) for prefix_ids, same in by_prefix.items()
        ]
        return sorted(prefills, key=lambda prefill: prefill.num_tail)

    def _prefill(self, first_row: int, prefills: Sequence[_Prefill]) -> Tensor:
        """Compute prefixes in the rows from `first_row` on, in one pass; return next-token logits, [B, V]."""
        num_fed = max(prefill.num_tail for prefill in prefills)
        ids_B_Q = torch.zeros((len(prefills), num_fed), dtype=torch.long)
        positions_B_Q = torch.full((len(prefills), num_fed), -1)
        for idx, prefill in enumerate(prefills):
            start = num_fed - prefill.num_tail
            ids_B_Q[idx, start:] = torch.tensor(prefill.prefix_ids[prefill.match.num_tokens :])
            positions_B_Q[idx, start:] = torch.arange(prefill.match.num_tokens, len(prefill.prefix_ids))
        logits_B_V = self._rows.forward(first_row, ids_B_Q.to(self._device), positions_B_Q.to(self._device))
        self._prefixes.insert(
            self._rows, {first_row + idx: prefill.prefix_ids for idx, prefill in enumerate(prefills)}
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
