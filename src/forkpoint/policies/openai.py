"""Continue text with a model behind an OpenAI-compatible HTTP server that speaks token ids: vLLM's `/v1/completions`.

Invariant: prompts and completions travel as token ids, never as text. A request is sent by itself with its own seed, and
becomes exactly one completion, however often the server fails, or is killed and started again, before it is answered.
The tokenizer, the end tokens and the size of the vocabulary come from the checkpoint that the server was started with; that
the server serves that checkpoint is taken on trust. This file starts no server.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from forkpoint.errors import ServerError
from forkpoint.http_client import HTTPClient, Unanswered
from forkpoint.policies.origin import load_again, refuse_too_long
from forkpoint.policies.text import Checkpoint
from forkpoint.policies.truncated import BOUNDS, Bound, completion_from_top
from forkpoint.records import Completion, Request

API_KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key where none is given."""
TOKEN_ID = "token_id:"
"""What vLLM puts before the ids that it gives in place of tokens' texts, which are not unique."""

_ENDED = Completion((), (), (), (), (), "stop")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server lists it."""

    name: str
    max_length: int | None
    """Tokens of prompt and completion together at most; None where the server does not say."""

    @classmethod
    def find(cls, client: HTTPClient, name: str | None) -> ServedModel:
        """The model called `name`, or the only one. ValueError where that is none, or several."""
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


class OpenAIPolicy:
    """A served model as a `Policy`.

    An entropy is one end, `entropy_bound`, of the interval that the `top_logprobs` most probable tokens leave open.
    The server must send its own ("raw") log-probabilities of so many tokens, and token ids; see docs/how-to/engines.md.
    A loaded policy is pickled as how it was loaded, without the key: where it is unpickled that comes from the environment.
    Any number of threads may use one policy; they share its `max_in_flight`.
    """

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
        """A policy from its parts; see `load` for the options."""
        if top_logprobs < 2:
            raise ValueError(
                f"top_logprobs must be at least 2, a token and its runner-up; {top_logprobs} was given"
            )
        if entropy_bound not in BOUNDS:
            raise ValueError(f"entropy_bound {entropy_bound!r} is unknown; choose from {', '.join(BOUNDS)}")
        self._checkpoint, self._client, self._served = checkpoint, client, served
        self._num_top: int = min(top_logprobs, checkpoint.vocab_size)
        self._entropy_bound: Bound = entropy_bound
        self._name = f"{name}-openai-top{self._num_top}-{entropy_bound}"
        self._origin: dict[str, Any] | None = None

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        server: str,
        model: str | ServedModel | None = None,
        api_key: str | None = None,
        template: str | None = None,
        top_logprobs: int = 20,
        entropy_bound: Bound = "lower",
        max_in_flight: int = 32,
        timeout_s: float = 600.0,
        retry_s: float = 300.0,
    ) -> Self:
        """The model that `server` (its address, with or without /v1) serves from the checkpoint `path_or_id`.

        `path_or_id` is a directory or a name on the hub, of which only configuration and tokenizer are used. `model` is the
        name under which it is served; None is for a server with only one, a `ServedModel` is used without asking. The key is
        that of the environment's OPENAI_API_KEY where none is given. `template` is a prompt with `{question}` in it, as for
        `LocalPolicy.load`. At most `max_in_flight` requests are open at a time. An attempt at a request may take
        `timeout_s`; a request that fails is sent again until `retry_s` after its first failure, which is long enough for
        most servers to be started again. To find the model the server is asked once, so a wrong address is told at once.
        Raises FileNotFoundError where there is no checkpoint, ServerError where no server answers, ValueError where
        it has no such model.
        """
        checkpoint = Checkpoint.load(path_or_id, template=template)
        base_url = server.rstrip("/").removesuffix("/v1") + "/v1"
        limits: dict[str, Any] = {"max_in_flight": max_in_flight, "timeout_s": timeout_s, "retry_s": retry_s}
        client = HTTPClient(base_url, api_key=api_key or os.environ.get(API_KEY), **limits)
        served = model if isinstance(model, ServedModel) else ServedModel.find(client, model)
        evidence: dict[str, Any] = {"top_logprobs": top_logprobs, "entropy_bound": entropy_bound}
        policy = cls(checkpoint, client, served, checkpoint.name(served.name), **evidence)
        origin = Path(path_or_id).resolve() if Path(path_or_id).is_dir() else path_or_id
        policy._origin = {
            "path_or_id": origin,
            "server": server,
            "model": served,
            "template": template,
            **evidence,
            **limits,
        }
        return policy

    def __reduce__(self) -> tuple[Any, ...]:
        """What to call with what to load the policy again. TypeError where it was not loaded."""
        if self._origin is None:
            raise TypeError(
                f"policy {self._name} was put together in memory and cannot be pickled; use OpenAIPolicy.load"
            )
        return load_again, (type(self), self._name, self._origin)

    @property
    def name(self) -> str:
        """The checkpoint, a hash of it, of the template and of the served name, and how entropies are seen; not the address."""
        return self._name

    @property
    def entropy_bound(self) -> Bound:
        """Which end of an entropy's interval is reported."""
        return self._entropy_bound

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._checkpoint.text.eos_ids

    @property
    def max_length(self) -> int | None:
        """The smaller of the checkpoint's and the server's limit."""
        limits = [
            limit for limit in (self._checkpoint.max_length, self._served.max_length) if limit is not None
        ]
        return min(limits, default=None)

    @property
    def num_parameters(self) -> int | None:
        return self._checkpoint.num_parameters

    def encode_question(self, question: str) -> tuple[int, ...]:
        return self._checkpoint.text.encode_question(question)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._checkpoint.text.decode(token_ids)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return self._checkpoint.text.token_texts(token_ids)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the same order; a prefix that ends in an end token is complete, and gets an empty one.

        Raises ValueError where a prefix and its `max_tokens` do not fit into the model's positions together, ServerError
        where the server refuses, stays away for too long, or answers without what is needed.
        """
        refuse_too_long(requests, self.max_length, self._name)
        open_requests = [request for request in requests if request.prefix_ids[-1] not in self.eos_ids]
        answers = iter(self._client.ask("completions", open_requests, self._write, self._read))
        return [_ENDED if request.prefix_ids[-1] in self.eos_ids else next(answers) for request in requests]

    def reset_cache(self) -> None:
        """Nothing is kept here, so nothing is forgotten; the server's cache of prefixes stays as it is."""

    def _write(self, request: Request) -> dict[str, Any]:
        """The body of a request. Whatever a server may have other defaults for is said, and the end tokens are ours."""
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
        """The completion in an answer. Unanswered where the server gave up half-way, ServerError where it is not what was asked for."""
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
                f"({type(error).__name__}: {error}); a vLLM server is needed, or one that honours return_token_ids, "
                "return_tokens_as_token_ids and logprobs on /v1/completions as vLLM does"
            ) from error
        self._check_ids(request, prompt_ids, token_ids, finish_reason)
        return completion

    def _check_ids(
        self, request: Request, prompt_ids: tuple[int, ...], token_ids: tuple[int, ...], finish_reason: str
    ) -> None:
        """ServerError where the server continued something else, or ended elsewhere than at an end token or the limit."""
        if prompt_ids != request.prefix_ids:
            raise ServerError(
                f"the server changed the prompt: {len(request.prefix_ids)} tokens were sent, {len(prompt_ids)} others continued"
            )
        ends = [idx for idx, token_id in enumerate(token_ids) if token_id in self.eos_ids]
        if ends[:1] != [len(token_ids) - 1] and (ends or len(token_ids) != request.max_tokens):
            raise ServerError(
                f"the server ended a completion ({finish_reason}) after {len(token_ids)} of {request.max_tokens} tokens, with end tokens "
                f"{sorted(self.eos_ids)} at {ends}; it must honour stop_token_ids and ignore_eos, and have no limit of its own"
            )


def _token_id(key: str) -> int:
    """The id in `token_id:ID`. ValueError for a token's text, which may be that of several tokens."""
    if not key.startswith(TOKEN_ID):
        raise ValueError(f"token {key!r} is no id")
    return int(key.removeprefix(TOKEN_ID))
