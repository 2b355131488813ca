"""What the policies of all engines share: text, pickling, and the requests that need no engine.

An engine is a subclass of `CheckpointPolicy` in a file of its own. It adds `load`, which reads a checkpoint
and starts or finds what runs it, and `_stream`, which runs it. `load` sets `_origin` to its own arguments.
Invariant: a policy that was pickled is unpickled as the same policy, or as an error if the checkpoint has
changed since.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from transformers.utils import logging

from forkpoint.checkpoint import Dtype
from forkpoint.checks import check_choice
from forkpoint.policies.gguf_file import is_gguf
from forkpoint.policies.stream import Completions, ListSource, in_batches, in_order
from forkpoint.policies.text import PolicyText
from forkpoint.records import Completion, EntropyBound, Request, RequestSource

ENDED = Completion((), (), (), (), (), "stop")
"""The completion of a prefix that ends in an end token."""


class CheckpointPolicy(ABC):
    """A `Policy` whose tokenizer comes from a checkpoint, whatever engine runs the model.

    A loaded policy is pickled as its class, its name and the arguments of its `load`, and unpickled by
    calling `load` again. A policy that was made without `load` cannot be pickled.
    """

    _WHY_UNPICKLABLE: ClassVar[str]
    """Why a policy that was not loaded cannot be pickled, and what to do; the sentence begins with the name
    of the policy."""
    _num_at_a_time: ClassVar[int] = 1024
    """The most requests in a call of `_continue`."""

    def __init__(self, name: str, text: PolicyText) -> None:
        """A policy called `name`.

        It can be pickled as soon as `load` has set `_origin` to its own arguments.
        """
        self._name, self._text = name, text
        self._origin: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """The call that loads the policy again. Raises TypeError if the policy was not loaded."""
        if self._origin is None:
            raise TypeError(f"policy {self._name} {self._WHY_UNPICKLABLE}")
        return _load_again, (type(self), self._name, self._origin)

    @property
    def name(self) -> str:
        """The name of the checkpoint, a hash of its files and of settings, and the engine."""
        return self._name

    @property
    @abstractmethod
    def entropy_bound(self) -> EntropyBound:
        """Whether entropies are exact, or which bound of them is reported.

        A part of `name` tells these apart.
        """

    @property
    @abstractmethod
    def max_length(self) -> int | None:
        """The most tokens of prompt and completion together; None if there is no limit."""

    @property
    @abstractmethod
    def num_parameters(self) -> int | None:
        """The number of weights of the model; None if it is unknown."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a completion."""
        return self._text.eos_ids

    def encode_question(self, question: str) -> tuple[int, ...]:
        """The token ids of the prompt; see `PolicyText.encode_question`."""
        return self._text.encode_question(question)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids` without end tokens and other special tokens."""
        return self._text.decode(token_ids)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; see `PolicyText.token_texts`."""
        return self._text.token_texts(token_ids)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the same order.

        A prefix that ends in an end token is complete and gets an empty completion.
        Raises ValueError, before anything is computed, if a prefix and its `max_tokens` together exceed
        `max_length`.
        """
        self._refuse_too_long(requests)
        # the longest first, so that the batch stays full for long; equal prefixes side by side
        by_length = sorted(
            requests, key=lambda request: (-request.max_tokens, -len(request.prefix_ids), request.prefix_ids)
        )
        return in_order(requests, self.stream(ListSource(by_length)))

    def stream(self, source: RequestSource) -> Completions:
        """The completions of the requests of `source`, in any order (see `StreamingPolicy.stream`).

        A prefix that ends in an end token is complete and gets an empty completion.
        Raises ValueError if a prefix and its `max_tokens` together exceed `max_length`.
        """
        open_requests = _OpenRequests(source, self.eos_ids, self._refuse_too_long)
        while True:
            for pair in self._stream(open_requests):
                yield from open_requests.take_ended()
                yield pair
            if not open_requests.has_ended:
                return
            yield from open_requests.take_ended()

    def _stream(self, source: RequestSource) -> Completions:
        """Run the model on what `source` gives.

        All requests fit into the model, and none of the prefixes is complete. An engine that cannot be fed
        while it works defines `_continue` instead.
        """
        return in_batches(self._continue, source, self._num_at_a_time)

    def _continue(self, requests: Sequence[Request]) -> Sequence[Completion]:
        """Run the model: one completion per request, in the same order.

        There is at least one request, and at most `_num_at_a_time`. All of them fit into the model, and none
        of the prefixes is complete.
        """
        raise NotImplementedError(f"{type(self).__name__} must define _stream or _continue")

    @abstractmethod
    def reset_cache(self) -> None:
        """Forget what earlier calls left behind; costs and rounding errors then are those of a new policy."""

    def _refuse_too_long(self, requests: Sequence[Request]) -> None:
        limit = self.max_length
        for request in requests:
            num_prefix, num_new = len(request.prefix_ids), request.max_tokens
            if limit is not None and num_prefix + num_new > limit:
                raise ValueError(
                    f"a prefix of {num_prefix} tokens and max_tokens {num_new} do not fit into "
                    f"the {limit} positions of {self._name}; shorten one of them"
                )


class _OpenRequests:
    """The requests of a source whose prefixes are not complete; the others are answered at once."""

    def __init__(
        self,
        source: RequestSource,
        eos_ids: frozenset[int],
        refuse_too_long: Callable[[Sequence[Request]], None],
    ) -> None:
        self._source, self._eos_ids, self._refuse_too_long = source, eos_ids, refuse_too_long
        self._ended: list[Request] = []

    @property
    def has_ended(self) -> bool:
        return bool(self._ended)

    def next(self, room: int) -> list[Request]:
        requests = self._source.next(room)
        self._refuse_too_long(requests)
        self._ended += [request for request in requests if request.prefix_ids[-1] in self._eos_ids]
        return [request for request in requests if request.prefix_ids[-1] not in self._eos_ids]

    def take_ended(self) -> Completions:
        while self._ended:
            yield self._ended.pop(), ENDED


def torch_dtype(name: str, has_gpu: bool) -> torch.dtype:
    """The dtype called `name`; `auto` is bfloat16 on a GPU and float32 elsewhere.

    Raises ValueError on an unknown name.
    """
    check_choice("dtype", name, get_args(Dtype))
    if name == "auto":
        return torch.bfloat16 if has_gpu else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def absolute(path_or_id: str | Path) -> str | Path:
    """The absolute path of a directory or GGUF file, which holds in any working directory.

    A hub id stays as it is.
    """
    is_path = Path(path_or_id).is_dir() or is_gguf(path_or_id)
    return Path(path_or_id).resolve() if is_path else path_or_id


def _load_again(cls: Any, name: str, origin: dict[str, Any]) -> Any:
    """Load the policy called `name` from its origin.

    Raises ValueError if the checkpoint there is another one by now.
    """
    shows_bars = logging.is_progress_bar_enabled()
    # the first load showed a bar; those of several processes would be drawn over each other
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        policy = cls.load(**origin)
    finally:
        if shows_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if policy.name != name:
        raise ValueError(
            f"{origin['path_or_id']} held {name} when it was loaded and holds {policy.name} now; "
            "load the policy again"
        )
    return policy
