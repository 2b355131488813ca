"""Which policy, on which engine: the flags of every command that samples.

Importing this file loads no engine; `PolicyConfig.load` loads the one that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkpoint.errors import MissingPackageError
from forkpoint.policies import checkpoint_of, load_policy

if TYPE_CHECKING:
    from forkpoint.records import Policy

Engine = Literal["local", "vllm", "openai"]
ENGINES: tuple[Engine, ...] = ("local", "vllm", "openai")


@dataclass(frozen=True)
class PolicyConfig:
    """A policy and how it is run."""

    policy: str = "lab"
    """`lab` (the shipped one), a model directory, or a hub id."""
    engine: Engine = "local"
    """What runs it: local (transformers, here), vllm (in this process), openai (a server that speaks token ids, as vLLM's does)."""
    server: str | None = None
    """With engine openai, the server's address; the key is that of the environment's OPENAI_API_KEY."""
    served_name: str | None = None
    """With engine openai, the name under which a server of several models serves this one."""
    batch_size: int = 64
    """Problems, prefixes or sequences that are worked on side by side."""
    max_in_flight: int = 64
    """With engine openai, requests that are open at a time."""
    template: str | None = None
    """The prompt with {question} in it; without one the chat template, and without that the question and a line break."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """With engine local."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """With engines local and vllm; auto is bfloat16 on a GPU and float32 elsewhere."""
    top_logprobs: int = 20
    """With engines vllm and openai, the most probable tokens that a position's entropy is judged by; with vllm, -1 is all of them."""
    entropy_bound: Literal["lower", "upper"] = "lower"
    """Which end of the interval that these tokens leave stands for the entropy; part of the policy's name, so runs record it."""
    tensor_parallel: int = 1
    """With engine vllm, GPUs that the model is split over."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine {self.engine!r} is unknown; choose from {', '.join(ENGINES)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; {self.batch_size} was given")
        if (self.engine == "openai") != (self.server is not None):
            raise ValueError(
                "engine openai and the address of a server belong together: give both or neither"
            )

    def load(self) -> Policy:
        """The policy. FileNotFoundError where there is no such model, MissingPackageError where the engine is not installed."""
        if self.engine == "local":
            return load_policy(
                self.policy,
                device=self.device,
                dtype=self.dtype,
                batch_size=self.batch_size,
                template=self.template,
            )
        path_or_id = checkpoint_of(self.policy)
        if self.engine == "vllm":
            try:
                from forkpoint.policies.vllm import VLLMPolicy
            except ModuleNotFoundError as error:
                raise MissingPackageError(
                    f"engine vllm needs vLLM in this environment ({error}); see docs/how-to/engines.md"
                ) from error

            return VLLMPolicy.load(
                path_or_id,
                dtype=self.dtype,
                template=self.template,
                top_logprobs=self.top_logprobs,
                entropy_bound=self.entropy_bound,
                tensor_parallel=self.tensor_parallel,
            )
        from forkpoint.policies.openai import OpenAIPolicy

        assert self.server is not None, "checked when the configuration was made"
        return OpenAIPolicy.load(
            path_or_id,
            server=self.server,
            model=self.served_name,
            template=self.template,
            top_logprobs=self.top_logprobs,
            entropy_bound=self.entropy_bound,
            max_in_flight=self.max_in_flight,
        )
