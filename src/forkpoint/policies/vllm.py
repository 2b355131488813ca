"""Continue text with vLLM in this process.

Invariant: log-probabilities are the model's own, at temperature 1 and untruncated. Entropies are exact where the whole
vocabulary is asked for, else one end of the interval that the most probable tokens leave, and the name says which.
vLLM batches, caches prefixes and splits a model over GPUs; nothing here does.
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
from forkpoint.policies.sampling import random_key
from forkpoint.policies.text import Checkpoint
from forkpoint.policies.truncated import BOUNDS, Bound, completion_from_top
from forkpoint.records import Completion, Request

ALL = -1
"""As `top_logprobs`: the whole vocabulary."""
LONGEST = 1 << 20
"""Tokens of models that name no limit."""


class VLLMPolicy(CheckpointPolicy):
    """A causal language model that vLLM runs, as a `Policy`.

    Equal seeds give equal samples in whatever batch, on the same kind of device and up to rounding; other samples than those of
    `LocalPolicy`. Temperatures between 0 and 0.01 are taken as 0.01.
    The engine starts at the first request: a process that only hands work to others leaves the GPUs to them.
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
        """A policy whose engine `start` starts at the first request; see `load` for the options.

        The engine has to take `max_length` tokens, and to return raw log-probabilities, at least `top_logprobs` of them.
        """
        _check_entropies(top_logprobs, entropy_bound, checkpoint.vocab_size)
        super().__init__(name, checkpoint.text)
        self._start, self._checkpoint = start, checkpoint
        self._llm: LLM | None = None
        self._max_length, self._top_logprobs, self._bound = max_length, top_logprobs, entropy_bound
        self._stop_ids = sorted(
            token_id for token_id in self.eos_ids if token_id < checkpoint.vocab_size
        )  # vLLM refuses others

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        dtype: Dtype = "auto",
        template: str | None = None,
        top_logprobs: int = 20,
        entropy_bound: Bound = "lower",
        max_length: int | None = None,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float = 0.9,
        cache_bytes: int | None = None,
        block_size: int | None = None,
    ) -> VLLMPolicy:
        """The model in a directory, or of that name on the hub.

        `dtype` and `template` are as for `LocalPolicy`. Entropies come from the `top_logprobs` most probable tokens of
        a position, and are the lower or upper bound on what these leave possible; -1 asks for the whole vocabulary, which is
        exact, and slow where that is large. `max_length` limits prompt and completion to fewer tokens than the model's positions.
        The model is split over `tensor_parallel` GPUs and takes `gpu_memory_utilization` of the memory of each, keys and
        values included; these get `cache_bytes` instead where that is given, and without a GPU 1 GiB. Prefixes are reused in
        blocks of `block_size` tokens: 32 without a GPU, where vLLM takes its multiples only, else vLLM's choice.
        Raises FileNotFoundError where there is no model.
        """
        is_cpu = current_platform.is_cpu()
        weights = torch_dtype(dtype, has_gpu=not is_cpu)
        checkpoint = Checkpoint.load(path_or_id, template=template)
        _check_entropies(top_logprobs, entropy_bound, checkpoint.vocab_size)
        length = min(limit for limit in (max_length, checkpoint.max_length, LONGEST) if limit is not None)
        start = partial(
            LLM,
            str(path_or_id),
            skip_tokenizer_init=True,  # text is this package's business
            dtype=weights,
            logprobs_mode="raw_logprobs",
            max_logprobs=ALL,  # as many as are asked for
            max_model_len=length,
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_memory_bytes=1 << 30 if is_cpu and cache_bytes is None else cache_bytes,
            block_size=32 if is_cpu and block_size is None else block_size,
            enable_prefix_caching=True,
            enable_chunked_prefill=not is_cpu,  # seeded samples of a torn prompt fail there: CPU generators cannot be set back
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
        """Whether entropies are exact, or which end of the interval they are."""
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
        """Forget all prefixes."""
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
            seed=random_key(request.seed) & (2**63 - 1),  # -1 would mean none
            logprobs=self._top_logprobs,
            flat_logprobs=True,
            stop_token_ids=self._stop_ids,
            ignore_eos=True,  # these end tokens and no others
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
            [
                dict(zip(found.token_ids[span], found.logprobs[span], strict=True)) for span in spans
            ],  # the token taken comes twice
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
