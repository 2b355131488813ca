"""Continue text with vLLM in this process.

Invariant: log-probabilities are those of the model, at temperature 1 and untruncated. Entropies are exact if
the whole vocabulary is asked for, else one end of the interval that the most probable tokens leave open; the
name says which. vLLM batches requests, caches prefixes and splits a model over GPUs; this file does none of
that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from vllm import LLM, RequestOutput, SamplingParams
from vllm.platforms import current_platform

from forkpoint.checkpoint import Dtype
from forkpoint.checks import check_choice
from forkpoint.policies.checkpoint_policy import CheckpointPolicy, absolute, torch_dtype
from forkpoint.policies.prompt import Prompt
from forkpoint.policies.sampling import random_key
from forkpoint.policies.text import Checkpoint
from forkpoint.policies.truncated import BOUNDS, Bound, completion_from_top
from forkpoint.records import Completion, Request

ALL = -1
"""The value of `top_logprobs` that stands for the whole vocabulary."""
LONGEST = 1 << 20
"""The limit of tokens for models that name none."""


class VLLMPolicy(CheckpointPolicy):
    """A causal language model that vLLM runs, as a `Policy`.

    Equal seeds give equal samples in any batch, on the same kind of device and up to rounding; they are not
    the samples of `LocalPolicy`. vLLM raises temperatures between 0 and 0.01 to 0.01.
    The engine starts with the first request, so that a process that only hands work to others leaves the GPUs
    to them.
    """

    _WHY_UNPICKLABLE = "was made of a running engine and cannot be pickled; use VLLMPolicy.load"

    def __init__(
        self,
        start: Callable[[], LLM],
        checkpoint: Checkpoint,
        name: str,
        *,
        max_length: int,
        top_logprobs: int = 20,
        entropy_bound: Bound = "lower",
    ) -> None:
        """A policy that calls `start` for its engine at the first request; see `load` for the options.

        The engine has to accept `max_length` tokens and to return at least `top_logprobs` raw
        log-probabilities.
        """
        _check_entropies(top_logprobs, entropy_bound, checkpoint.vocab_size)
        super().__init__(name, checkpoint.text)
        self._start, self._checkpoint = start, checkpoint
        self._llm: LLM | None = None
        self._max_length, self._top_logprobs, self._bound = max_length, top_logprobs, entropy_bound
        # vLLM refuses ids outside the vocabulary
        self._stop_ids = sorted(token_id for token_id in self.eos_ids if token_id < checkpoint.vocab_size)

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        dtype: Dtype = "auto",
        template: Prompt = None,
        top_logprobs: int = 20,
        entropy_bound: Bound = "lower",
        max_length: int | None = None,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float = 0.9,
        cache_bytes: int | None = None,
        block_size: int | None = None,
    ) -> VLLMPolicy:
        """The model in a directory, or of that name on the hub.

        `dtype` and `template` are as for `LocalPolicy.load`. Entropies are the lower or the upper bound on
        what is possible given the `top_logprobs` most probable tokens of a position; -1 asks for the whole
        vocabulary, which makes them exact, and is slow if the vocabulary is large. `max_length` limits prompt
        and completion to fewer tokens than the model has positions. The model is split over `tensor_parallel`
        GPUs and takes the share `gpu_memory_utilization` of the memory of each, keys and values included.
        `cache_bytes`, if given, is the memory of keys and values instead; without a GPU it is 1 GiB by
        default. Prefixes are reused in blocks of `block_size` tokens; the default is 32 without a GPU (vLLM
        then accepts multiples of 32 only), else the choice of vLLM.
        Raises FileNotFoundError if there is no model.
        """
        is_cpu = current_platform.is_cpu()
        weights = torch_dtype(dtype, has_gpu=not is_cpu)
        checkpoint = Checkpoint.load(path_or_id, template=template)
        _check_entropies(top_logprobs, entropy_bound, checkpoint.vocab_size)
        length = min(limit for limit in (max_length, checkpoint.max_length, LONGEST) if limit is not None)
        start = partial(
            LLM,
            str(checkpoint.path_or_id),
            trust_remote_code=False,
            skip_tokenizer_init=True,  # this package tokenizes
            dtype=weights,
            logprobs_mode="raw_logprobs",
            max_logprobs=ALL,  # a request may ask for any number
            max_model_len=length,
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_memory_bytes=1 << 30 if is_cpu and cache_bytes is None else cache_bytes,
            block_size=32 if is_cpu and block_size is None else block_size,
            enable_prefix_caching=True,
            # on a CPU, seeded samples of a prompt in chunks fail: CPU generators cannot be set back
            enable_chunked_prefill=not is_cpu,
            enforce_eager=is_cpu,
        )
        settings = "exact" if top_logprobs == ALL else f"top{top_logprobs}-{entropy_bound}"
        name = f"{checkpoint.name(str(weights))}-vllm-{settings}"
        policy = cls(
            start, checkpoint, name, max_length=length, top_logprobs=top_logprobs, entropy_bound=entropy_bound
        )
        policy._origin = {
            "path_or_id": absolute(path_or_id),
            "dtype": str(weights).removeprefix("torch."),
            "template": template,
            "top_logprobs": top_logprobs,
            "entropy_bound": entropy_bound,
            "max_length": max_length,
            "tensor_parallel": tensor_parallel,
            "gpu_memory_utilization": gpu_memory_utilization,
            "cache_bytes": cache_bytes,
            "block_size": block_size,
        }
        return policy

    @property
    def entropy_bound(self) -> Literal["exact"] | Bound:
        """Whether entropies are exact, or the lower or upper ends of their intervals."""
        return "exact" if self._top_logprobs == ALL else self._bound

    @property
    def max_length(self) -> int:
        return self._max_length

    @property
    def num_parameters(self) -> int | None:
        return self._checkpoint.num_parameters

    def _continue(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [{"prompt_token_ids": list(request.prefix_ids)} for request in requests]
        params = [self._sampling_params(request) for request in requests]
        return [
            self._completion(output) for output in self._engine().generate(prompts, params, use_tqdm=False)
        ]

    def reset_cache(self) -> None:
        """Forget all prefixes, once the engine has been started."""
        if self._llm is not None:
            self._llm.reset_prefix_cache()

    def _engine(self) -> LLM:
        if self._llm is None:
            self._llm = self._start()
        return self._llm

    def _sampling_params(self, request: Request) -> SamplingParams:
        return SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=random_key(request.seed) & (2**63 - 1),  # -1 would mean no seed
            logprobs=self._top_logprobs,
            flat_logprobs=True,
            stop_token_ids=self._stop_ids,
            ignore_eos=True,  # only `stop_token_ids` end a completion
            detokenize=False,
        )

    def _completion(self, output: RequestOutput) -> Completion:
        (sample,) = output.outputs
        assert sample.finish_reason in ("stop", "length"), (
            f"vLLM finished a request with {sample.finish_reason!r}"
        )
        found, vocab_size = sample.logprobs, self._checkpoint.vocab_size
        spans = [slice(*span) for span in zip(found.start_indices, found.end_indices, strict=True)]
        return completion_from_top(
            sample.token_ids,
            # the taken token may come twice
            [dict(zip(found.token_ids[span], found.logprobs[span], strict=True)) for span in spans],
            sample.finish_reason,
            vocab_size=vocab_size,
            num_top=vocab_size if self._top_logprobs == ALL else self._top_logprobs,
            bound=self._bound,
            num_reused_tokens=output.num_cached_tokens,
        )


def _check_entropies(top_logprobs: int, entropy_bound: Bound, vocab_size: int) -> None:
    if top_logprobs != ALL and not 2 <= top_logprobs <= vocab_size:
        raise ValueError(
            f"top_logprobs must be -1 (the whole vocabulary) or 2 to {vocab_size}; {top_logprobs} was given"
        )
    check_choice("entropy_bound", entropy_bound, BOUNDS)
