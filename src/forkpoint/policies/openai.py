"""Continue text with a model on an OpenAI-compatible HTTP server.

The server has to accept and return token ids, as that of vLLM does.

Invariant: prompts and completions travel as token ids, never as text. Each request is sent on its own, with
its own seed, and yields exactly one completion, however often the server fails or is restarted before it
answers. The tokenizer, the end tokens and the size of the vocabulary come from a checkpoint, which has to be
the one that the server was started with; this is not checked. This file starts no server.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from forkpoint.checks import check_choice
from forkpoint.errors import ServerError
from forkpoint.http_client import HTTPClient, Unanswered
from forkpoint.policies.checkpoint_policy import CheckpointPolicy, absolute
from forkpoint.policies.prompt import Prompt
from forkpoint.policies.text import Checkpoint
from forkpoint.policies.truncated import BOUNDS, Bound, completion_from_top
from forkpoint.records import Completion, Request

API_KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key if none is given."""
TOKEN_ID = "token_id:"
"""The prefix of the ids that vLLM returns in place of the texts of tokens, which are not unique."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as listed by its server."""

    name: str
    max_length: int | None
    """The most tokens of prompt and completion together; None if the server does not say."""

    @classmethod
    def find(cls, client: HTTPClient, name: str | None) -> ServedModel:
        """The model called `name`, or the only one if that is None.

        Raises ValueError if there is no such model.
        """
        answer = client.get("models")
        try:
            lengths: dict[str, int | None] = {
                card["id"]: card.get("max_model_len") for card in answer["data"]
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ServerError(f"the list of models cannot be read: {str(answer)[:200]}") from error
        if name is None and len(lengths) == 1:
            (name,) = lengths
        if name not in lengths:
            asked = "no model was named" if name is None else f"model {name!r} was asked for"
            raise ValueError(
                f"{asked}, and the server has {', '.join(map(repr, lengths)) or 'none'}; name one of these"
            )
        return cls(name, lengths[name])


class OpenAIPolicy(CheckpointPolicy):
    """A model on a server as a `Policy`.

    The reported entropy is the lower or the upper end (`entropy_bound`) of the interval of entropies that are
    possible given the `top_logprobs` most probable tokens. The server has to return token ids and the model's
    own ("raw") log-probabilities of that many tokens; see docs/how-to/engines.md.
    A loaded policy is pickled as its origin and options, without the key: the process that unpickles it reads
    the key from its own environment. Any number of threads may use one policy; they share its
    `max_in_flight`.
    `generate` and `stream` raise ServerError if the server refuses a request, cannot be reached for too long,
    or answers without what is needed.
    """

    _WHY_UNPICKLABLE = "was put together in memory and cannot be pickled; use OpenAIPolicy.load"

    def __init__(
        self,
        checkpoint: Checkpoint,
        client: HTTPClient,
        served: ServedModel,
        name: str,
        *,
        top_logprobs: int = 20,
        entropy_bound: Bound = "lower",
    ) -> None:
        """A policy made of its parts; see `load` for the options."""
        if top_logprobs < 2:
            raise ValueError(
                f"top_logprobs must be at least 2, a token and its runner-up; {top_logprobs} was given"
            )
        check_choice("entropy_bound", entropy_bound, BOUNDS)
        num_top = min(top_logprobs, checkpoint.vocab_size)
        super().__init__(f"{name}-openai-top{num_top}-{entropy_bound}", checkpoint.text)
        self._checkpoint, self._client, self._served = checkpoint, client, served
        self._num_top = num_top
        self._entropy_bound: Bound = entropy_bound

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        server: str,
        model: str | ServedModel | None = None,
        api_key: str | None = None,
        template: Prompt = None,
        top_logprobs: int = 20,
        entropy_bound: Bound = "lower",
        max_in_flight: int = 32,
        timeout_s: float = 600.0,
        retry_s: float = 300.0,
    ) -> Self:
        """Find the model that a server serves from the checkpoint `path_or_id`.

        `server` is the address, with or without /v1. `path_or_id` is a directory or a name on the hub; only
        the configuration and the tokenizer are read. `model` is the name of the model on the server; None
        stands for the only one, and a `ServedModel` is used without asking the server. If `api_key` is None,
        the key is read from the environment variable OPENAI_API_KEY. `template` is a prompt with `{question}`
        in it, as for `LocalPolicy.load`. At most `max_in_flight` requests are open at a time. One attempt at
        a request may take `timeout_s`; a request that fails is sent again until `retry_s` after its first
        failure, which is long enough for most servers to restart. The server is asked for its models once, so
        a wrong address fails at once. Raises FileNotFoundError if there is no checkpoint, ServerError if no
        server answers, and ValueError if the server has no such model.
        """
        checkpoint = Checkpoint.load(path_or_id, template=template)
        base_url = server.rstrip("/").removesuffix("/v1") + "/v1"
        limits: dict[str, Any] = {"max_in_flight": max_in_flight, "timeout_s": timeout_s, "retry_s": retry_s}
        client = HTTPClient(base_url, api_key=api_key or os.environ.get(API_KEY), **limits)
        served = model if isinstance(model, ServedModel) else ServedModel.find(client, model)
        evidence: dict[str, Any] = {"top_logprobs": top_logprobs, "entropy_bound": entropy_bound}
        policy = cls(checkpoint, client, served, checkpoint.name(served.name), **evidence)
        policy._origin = {
            "path_or_id": absolute(path_or_id),
            "server": server,
            "model": served,
            "template": template,
            **evidence,
            **limits,
        }
        return policy

    @property
    def entropy_bound(self) -> Bound:
        """The end of the interval of possible entropies that is reported."""
        return self._entropy_bound

    @property
    def max_length(self) -> int | None:
        """The smaller of the limits of the checkpoint and of the server."""
        limits = [
            limit for limit in (self._checkpoint.max_length, self._served.max_length) if limit is not None
        ]
        return min(limits, default=None)

    @property
    def num_parameters(self) -> int | None:
        return self._checkpoint.num_parameters

    def _continue(self, requests: Sequence[Request]) -> list[Completion]:
        return self._client.ask("completions", requests, self._write, self._read)

    def reset_cache(self) -> None:
        """Do nothing: no state is kept here, and the server keeps its own cache of prefixes."""

    def _write(self, request: Request) -> dict[str, Any]:
        """The body of a request.

        It sets everything for which servers may have other defaults, and our own end tokens.
        """
        return {
            "model": self._served.name,
            "prompt": request.prefix_ids,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % 2**63,  # vLLM takes 64 bits with a sign, and -1 for no seed
            "logprobs": self._num_top,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "ignore_eos": True,
            "stop_token_ids": sorted(
                token_id for token_id in self.eos_ids if token_id < self._checkpoint.vocab_size
            ),
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }

    def _read(self, request: Request, answer: Any) -> Completion:
        """The completion in an answer.

        Raises Unanswered if the server gave up half-way, and ServerError if the answer lacks something that
        is needed.
        """
        try:
            (choice,) = answer["choices"]
            finish_reason = choice["finish_reason"]
            if finish_reason not in ("stop", "length"):
                raise Unanswered(f"the server ended the completion early: {finish_reason}")
            prompt_ids, token_ids = tuple(choice["prompt_token_ids"]), tuple(choice["token_ids"])
            rows = [
                {_token_id(key): float(logprob) for key, logprob in row.items()}
                for row in choice["logprobs"]["top_logprobs"]
            ]
            details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
            completion = completion_from_top(
                token_ids,
                rows,
                "length" if self.eos_ids.isdisjoint(token_ids[-1:]) else "stop",
                vocab_size=self._checkpoint.vocab_size,
                num_top=self._num_top,
                bound=self._entropy_bound,
                num_reused_tokens=details.get("cached_tokens") or 0,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(
                f"the server's answer lacks token ids, or log-probabilities of {self._num_top} tokens by id "
                f"({type(error).__name__}: {error}); a vLLM server is needed, or one that honours "
                "return_token_ids, return_tokens_as_token_ids and logprobs on /v1/completions as vLLM does"
            ) from error
        self._check_ids(request, prompt_ids, token_ids, finish_reason)
        return completion

    def _check_ids(
        self, request: Request, prompt_ids: tuple[int, ...], token_ids: tuple[int, ...], finish_reason: str
    ) -> None:
        """Raise ServerError if the prompt was changed, or if neither an end token nor the limit ended it."""
        if prompt_ids != request.prefix_ids:
            raise ServerError(
                f"the server changed the prompt: {len(request.prefix_ids)} tokens were sent, "
                f"{len(prompt_ids)} others continued"
            )
        ends = [idx for idx, token_id in enumerate(token_ids) if token_id in self.eos_ids]
        if ends[:1] != [len(token_ids) - 1] and (ends or len(token_ids) != request.max_tokens):
            raise ServerError(
                f"the server ended a completion ({finish_reason}) after {len(token_ids)} of "
                f"{request.max_tokens} tokens, with end tokens {sorted(self.eos_ids)} at {ends}; "
                "it must honour stop_token_ids and ignore_eos, and have no limit of its own"
            )


def _token_id(key: str) -> int:
    """The id in `token_id:ID`.

    Raises ValueError on the text of a token, because several tokens may share it.
    """
    if not key.startswith(TOKEN_ID):
        raise ValueError(f"token {key!r} is no id")
    return int(key.removeprefix(TOKEN_ID))
