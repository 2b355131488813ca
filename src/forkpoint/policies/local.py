"""Continue text with a causal language model of transformers, on one device.

Invariant: a completion depends on its request and the model alone. The batch size, the other requests and the
cache change its cost, and its logits by rounding only: in float32 by some hundred units in the last place of
the largest logit at most (held for small models on any processor by the tests), and not at all with many
kernels (see `attention`). In bfloat16, units are 65,536 times as large. Rounding changes a token only if two
logits nearly tie, or if the random number is as close to the border between two tokens; then the rest of the
completion changes too.
This file loads models; `text` tokenizes, `decoding` runs them. It does not train, and does not split a model
over devices.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from forkpoint.checkpoint import Dtype, device_named, fingerprint, load_pretrained, load_tokenizer
from forkpoint.checks import check_at_least
from forkpoint.policies import kv_rows
from forkpoint.policies.attention import ROWS
from forkpoint.policies.checkpoint_policy import CheckpointPolicy, absolute, torch_dtype
from forkpoint.policies.decoding import StreamDecoder
from forkpoint.policies.equal_lengths import decode_in_equal_lengths
from forkpoint.policies.gguf_file import model_directory
from forkpoint.policies.kv_rows import KVRows
from forkpoint.policies.prefix_cache import PrefixCache
from forkpoint.policies.prompt import Prompt
from forkpoint.policies.stream import Completions
from forkpoint.policies.text import PolicyText, eos_ids, missing_refused
from forkpoint.records import RequestSource


class LocalPolicy(CheckpointPolicy):
    """A causal language model as a `Policy` that reuses the keys and values of prefixes it has seen before.

    Models whose caches are not plain keys and values (sliding windows, hybrids with recurrent states) and
    models without position ids work too, but slowly: in batches of equal prefix length, without reuse, and
    without refilling the batch. Models without `past_key_values` (Mamba) are refused.
    If you train `model` further, call `reset_cache` afterwards, and do not keep the name. A loaded policy is
    pickled as its origin and options, and loaded again when unpickled: later changes to `model` and the
    content of the cache are not part of the pickle.
    """

    _WHY_UNPICKLABLE = (
        "was made of a model in memory and cannot be pickled; save the model, then use LocalPolicy.load"
    )

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        *,
        batch_size: int = 64,
        template: Prompt = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        """A policy made of a model and a tokenizer in memory; see `load` for the options."""
        check_at_least(1, batch_size=batch_size)
        check_at_least(0, cache_bytes=cache_bytes)
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"{type(model).__name__} takes no past_key_values, "
                "so its text cannot be continued token by token here"
            )
        ends = eos_ids(model.generation_config, model.config.get_text_config(), tokenizer)
        super().__init__(name, PolicyText(tokenizer, ends, template))
        self.model = model
        model.train(False)
        self._batch_size, self._cache_bytes = batch_size, cache_bytes
        self._rows: KVRows | None = None
        self._prefixes: PrefixCache | None = None
        with torch.inference_mode():
            self._probed = kv_rows.probe(model)
        if (
            self._probed is not None
            and model.device.type == "cpu"
            and model.config._attn_implementation == "sdpa"
        ):
            model.set_attn_implementation(ROWS)

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        batch_size: int = 64,
        template: Prompt = None,
        cache_bytes: int = 1 << 30,
    ) -> LocalPolicy:
        """Load the model in a directory or a GGUF file, or the model of that name on the hub.

        `device` is `auto` (the first CUDA device if there is one, else the CPU) or a name that `torch.device`
        takes; `dtype` `auto` is bfloat16 on a GPU and float32 elsewhere. `batch_size` sequences are decoded
        at a time. `template` is a prompt with `{question}` in it, or a `ChatPrompt`, which adds to
        the tokenizer's chat template; the default is the chat template, or the question and a line break if
        there is none. Up to `cache_bytes` of keys and values of
        earlier completions are kept for reuse; 0 turns reuse off. Raises FileNotFoundError if there is no
        model.
        """
        target = device_named(device)
        weights = torch_dtype(dtype, has_gpu=target.type == "cuda")
        source = model_directory(path_or_id)
        with missing_refused(source):
            model: PreTrainedModel = load_pretrained(AutoModelForCausalLM, source, dtype=weights)
            tokenizer = load_tokenizer(source)
            config_path = cached_file(source, "config.json")
        assert config_path is not None, "cached_file raises if there is no file"
        digest = fingerprint(Path(config_path).parent, str(weights), repr(template))
        name = f"{Path(source).resolve().name}-{digest}"
        nn.Module.to(model, target)
        options: dict[str, Any] = {"batch_size": batch_size, "template": template, "cache_bytes": cache_bytes}
        policy = cls(model, tokenizer, name, **options)
        policy._origin = {
            "path_or_id": absolute(path_or_id),
            "device": device,
            "dtype": str(weights).removeprefix("torch."),
            **options,
        }
        return policy

    @property
    def entropy_bound(self) -> Literal["exact"]:
        """Always `exact`: entropies are those of the whole next-token distribution."""
        return "exact"

    @property
    def max_length(self) -> int | None:
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    @property
    def num_parameters(self) -> int:
        return self.model.num_parameters()

    def _stream(self, source: RequestSource) -> Completions:
        if self._probed is None:
            yield from decode_in_equal_lengths(self.model, source, self.eos_ids, self._batch_size)
            return
        if self._prefixes is None:
            self._prefixes = PrefixCache(self._cache_bytes, *self._probed)
        # a stream that begins while another one is open gets rows of its own
        rows, self._rows = self._rows or KVRows(self.model, *self._probed), None
        try:
            yield from StreamDecoder(
                rows, self._prefixes, self.eos_ids, self._batch_size, self.model.device
            ).stream(source)
        finally:
            self._rows = rows

    def reset_cache(self) -> None:
        """Forget all keys and values and free their memory."""
        self._rows = self._prefixes = None
