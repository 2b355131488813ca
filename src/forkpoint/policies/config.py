"""The choice of a policy and its engine: the flags of every command that samples.

Importing this file loads no engine; `PolicyConfig.load` loads the one that is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkpoint.checkpoint import Device, Dtype
from forkpoint.checks import check_at_least, check_choice
from forkpoint.errors import MissingPackageError
from forkpoint.policies import load_policy, path_of
from forkpoint.policies.prompt import Prompt, prompt_of
from forkpoint.policies.truncated import Bound

if TYPE_CHECKING:
    from forkpoint.records import Policy

Engine = Literal["local", "vllm", "openai"]
ENGINES: tuple[Engine, ...] = ("local", "vllm", "openai")


@dataclass(frozen=True)
class PolicyConfig:
    """A policy, and how to run it."""

    policy: str = "lab"
    """`lab` or `lab-shuffle` (shipped with the package), a model directory, a GGUF file (which is unpacked
    once), or a hub id."""
    engine: Engine = "local"
    """What runs the model: local (transformers, in this process), vllm (in this process), or openai (an
    OpenAI-compatible server that accepts and returns token ids, as that of vLLM does)."""
    server: str | None = None
    """With engine openai, the address of the server. The key is read from the environment variable
    OPENAI_API_KEY."""
    served_name: str | None = None
    """With engine openai, the name of the model on the server; needed if it serves several."""
    batch_size: int = 64
    """How many problems, prefixes or sequences are processed side by side."""
    max_in_flight: int = 64
    """With engine openai, the most requests that are open at a time."""
    template: str | None = None
    """The prompt, with {question} in it. The default is the chat template of the model; if there is none, the
    question and a line break."""
    instruction: str | None = None
    """A text that follows the question in the user's message of the chat template, or the name of one:
    math-boxed or gsm8k-hash."""
    system: str | None = None
    """The system message of the chat template in place of its own, or the name of one: qwen-math or
    math-boxed."""
    thinking: bool | None = None
    """Whether a model that can reason before it answers does so: the switch `enable_thinking` of its chat
    template, which is left alone by default."""
    device: Device = "auto"
    """With engine local, the device to run on; auto is the first GPU if there is one, else the CPU."""
    dtype: Dtype = "auto"
    """With engines local and vllm, the type of the weights; auto is bfloat16 on a GPU and float32
    elsewhere."""
    top_logprobs: int = 20
    """With engines vllm and openai, the number of most probable tokens per position from which its entropy is
    bounded. With vllm, -1 asks for the whole vocabulary, which makes entropies exact."""
    entropy_bound: Bound = "lower"
    """The end of the interval of possible entropies that is reported as the entropy. It is part of the name
    of the policy, so runs record it."""
    tensor_parallel: int = 1
    """With engine vllm, the number of GPUs over which the model is split."""

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, ENGINES)
        check_at_least(1, batch_size=self.batch_size)
        if (self.engine == "openai") != (self.server is not None):
            raise ValueError(
                "engine openai and the address of a server belong together: give both or neither"
            )

        _ = self.prompt  # raises if the four flags do not fit together

    @property
    def prompt(self) -> Prompt:
        """The prompt of `template`, `instruction`, `system` and `thinking`."""
        return prompt_of(self.template, self.instruction, self.system, self.thinking)

    def load(self) -> Policy:
        """Load the policy.

        Raises FileNotFoundError if there is no such model, and MissingPackageError if the engine is not
        installed.
        """
        if self.engine == "local":
            return load_policy(
                self.policy,
                device=self.device,
                dtype=self.dtype,
                batch_size=self.batch_size,
                template=self.prompt,
            )
        path_or_id = path_of(self.policy)
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
                template=self.prompt,
                top_logprobs=self.top_logprobs,
                entropy_bound=self.entropy_bound,
                tensor_parallel=self.tensor_parallel,
            )
        from forkpoint.policies.openai import OpenAIPolicy

        assert self.server is not None, "__post_init__ refuses engine openai without a server"
        return OpenAIPolicy.load(
            path_or_id,
            server=self.server,
            model=self.served_name,
            template=self.prompt,
            top_logprobs=self.top_logprobs,
            entropy_bound=self.entropy_bound,
            max_in_flight=self.max_in_flight,
        )
