"""Continue text with a causal language model of transformers, on one device.

Invariant: a completion depends on its request and the model alone; batch size, neighbours and what is cached change its
cost, and its numbers by rounding only.
This file loads and checks; `text` tokenizes, `decoding` runs the model. It does not train, and does not split a model over devices.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from forkpoint.checkpoint import device_named, fingerprint, load_tokenizer
from forkpoint.policies import kv_rows
from forkpoint.policies.attention import ROWS
from forkpoint.policies.decoding import BatchDecoder, decode_in_equal_lengths
from forkpoint.policies.kv_rows import KVRows
from forkpoint.policies.origin import load_again, refuse_too_long
from forkpoint.policies.prefix_cache import PrefixCache
from forkpoint.policies.text import PolicyText, eos_ids
from forkpoint.records import Completion, Request

Device = str
"""`auto` (the first CUDA device if there is one, else the CPU) or whatever `torch.device` takes."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` is bfloat16 on CUDA and float32 elsewhere."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LocalPolicy:
    """A causal language model as a `Policy`; prefixes it has completed before are continued without computing them again.

    Models whose caches are not plain keys and values (sliding windows, hybrids with recurrent states) and models without
    position ids are served too, but slowly: in batches of equal prefix length, without reuse, and without refilling the batch.
    Models without `past_key_values` (Mamba) are refused.
    Whoever trains `model` further must call `reset_cache`, and should not keep the name.
    A loaded policy is pickled as where it came from and how it was loaded, and loaded again where it is unpickled: what was
    done to `model` since, and what is cached, is not part of it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        *,
        batch_size: int = 64,
        template: str | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        """A policy from a model and a tokenizer in memory; see `load` for the options."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; {batch_size} was given")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be 0 (off) or above; {cache_bytes} was given")
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"{type(model).__name__} takes no past_key_values, so its text cannot be continued token by token here"
            )
        ends = eos_ids(model.generation_config, model.config.get_text_config(), tokenizer)
        self.model, self._name, self._text = model, name, PolicyText(tokenizer, ends, template)
        model.train(False)
        self._batch_size, self._cache_bytes = batch_size, cache_bytes
        self._origin: dict[str, Any] | None = None
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
        device: Device = "auto",
        dtype: Dtype = "auto",
        batch_size: int = 64,
        template: str | None = None,
        cache_bytes: int = 1 << 30,
    ) -> LocalPolicy:
        """The model in a directory, or of that name on the hub.

        `batch_size` sequences are decoded at a time. `template` is a prompt with `{question}` in it; without one the
        tokenizer's chat template is used, and without that either, the question and a line break. At most
        `cache_bytes` hold keys and values of earlier completions for reuse; 0 turns that off.
        Raises FileNotFoundError where there is no model.
        """
        if dtype != "auto" and dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is unknown; choose from auto, {', '.join(DTYPES)}")
        target = device_named(device)
        default_dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
        torch_dtype = default_dtype if dtype == "auto" else DTYPES[dtype]
        if Path(path_or_id).is_dir() and not (Path(path_or_id) / "config.json").exists():
            raise FileNotFoundError(f"'{path_or_id}' holds no model: there is no config.json in it")
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path_or_id, dtype=torch_dtype)
            tokenizer = load_tokenizer(path_or_id)
            config_path = cached_file(path_or_id, "config.json")
        except OSError as error:
            raise FileNotFoundError(
                f"'{path_or_id}' is neither a directory with a model nor a model on the hub: {error}"
            ) from error
        assert config_path is not None, "cached_file raises where there is no file"
        name = f"{Path(path_or_id).resolve().name}-{fingerprint(Path(config_path).parent, str(torch_dtype), repr(template))}"
        nn.Module.to(model, target)
        options: dict[str, Any] = {"batch_size": batch_size, "template": template, "cache_bytes": cache_bytes}
        policy = cls(model, tokenizer, name, **options)
        origin = Path(path_or_id).resolve() if Path(path_or_id).is_dir() else path_or_id
        policy._origin = {
            "path_or_id": origin,
            "device": device,
            "dtype": str(torch_dtype).removeprefix("torch."),
            **options,
        }
        return policy

    def __reduce__(self) -> tuple[Any, ...]:
        """What to call with what to load the policy again. TypeError where it was not loaded."""
        if self._origin is None:
            raise TypeError(
                f"policy {self._name} was made of a model in memory and cannot be pickled; save the model, then LocalPolicy.load"
            )
        return load_again, (type(self), self._name, self._origin)

    @property
    def name(self) -> str:
        """Where the model came from and a hash of what it is (see `fingerprint`)."""
        return self._name

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._text.eos_ids

    @property
    def entropy_bound(self) -> Literal["exact"]:
        """Entropies are those of the whole next-token distribution."""
        return "exact"

    @property
    def max_length(self) -> int | None:
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    @property
    def num_parameters(self) -> int:
        return self.model.num_parameters()

    def encode_question(self, question: str) -> tuple[int, ...]:
        """The prompt's token ids: `template`, else the chat template, else the question and a line break."""
        return self._text.encode_question(question)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._text.decode(token_ids)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; joined they are `decode(token_ids)`, special tokens are empty, split characters come complete."""
        return self._text.token_texts(token_ids)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the same order; a prefix that ends in an end token is complete, and gets an empty one.

        Raises ValueError where a prefix and its `max_tokens` do not fit into the model's positions together.
        """
        refuse_too_long(requests, self.max_length, self._name)
        completions = [Completion((), (), (), (), (), "stop")] * len(requests)
        open_idxs = [
            idx for idx, request in enumerate(requests) if request.prefix_ids[-1] not in self._text.eos_ids
        ]
        open_requests = [requests[idx] for idx in open_idxs]
        with torch.inference_mode():
            if self._probed is None:
                done = decode_in_equal_lengths(
                    self.model, open_requests, self._text.eos_ids, self._batch_size
                )
            else:
                done = self._decoder().decode(open_requests) if open_requests else []
        for idx, completion in zip(open_idxs, done, strict=True):
            completions[idx] = completion
        return completions

    def reset_cache(self) -> None:
        """Forget all keys and values and give their memory back."""
        self._rows = self._prefixes = None

    def _decoder(self) -> BatchDecoder:
        assert self._probed is not None, "only models that were probed can be decoded row by row"
        if self._rows is None:
            self._rows = KVRows(self.model, *self._probed)
            self._prefixes = PrefixCache(self._cache_bytes, *self._probed)
        assert self._prefixes is not None, "rows and prefixes are made together"
        return BatchDecoder(
            self._rows, self._prefixes, self._text.eos_ids, self._batch_size, self.model.device
        )
