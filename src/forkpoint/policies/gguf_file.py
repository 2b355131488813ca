"""Unpack a GGUF file into a model directory, once, and find it there afterwards.

The directories lie in a cache, under the digest of the file's content. Weights in blocks (Q4_K_M and the
like) become bfloat16; files of floats keep their type. The tokenizer and its chat template come out of the
file.
Invariant: what is in the cache is complete (it is written elsewhere and renamed), and only one process
unpacks a file at a time, others wait for it. The name and the fingerprint of an unpacked model follow from
the content of the GGUF file, wherever that lies and whatever it is called.
transformers reads the weights and the vocabulary. Where it leaves something out that changes what the model
does (rotary scaling, the pre-tokenizer, further end tokens), this file adds it, or refuses.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forkpoint.checkpoint import UNPACKED_GGUF, load_pretrained, turn_end
from forkpoint.errors import MissingPackageError
from forkpoint.policies.gguf_header import GGUFHeader
from forkpoint.runs.durable import replace_file

CACHE = "FORKPOINT_CACHE"
"""The environment variable that names the directory of the cache."""
UNPACKING = 1
"""The version of the unpacking; a change that alters what an unpacked model does counts it up."""
FLOATS = {0: "float32", 1: "float16", 30: "bfloat16"}
"""The tensor types that are plain floats, by their number in GGUF."""
END_TOKENS = ("<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<end_of_turn>")
"""Control tokens that end a text, as in llama.cpp, whatever else a file names."""
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""The pre-tokenizers (`tokenizer.ggml.pre`) that cut every digit off, then split as GPT-2 does."""
AS_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais")
"""The pre-tokenizers that split as GPT-2 does."""
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The rotary scaling of Llama 3.1 and its successors, but for the factor."""


def is_gguf(name_or_path: str | Path) -> bool:
    """Whether the name is that of a GGUF file, which may be missing."""
    path = Path(name_or_path)
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def model_directory(path_or_id: str | Path) -> str | Path:
    """The directory of an unpacked GGUF file; directories and hub ids stay as they are."""
    return unpacked(Path(path_or_id)) if is_gguf(path_or_id) else path_or_id


def cache_directory() -> Path:
    """The directory of the cache: FORKPOINT_CACHE, else forkpoint in XDG_CACHE_HOME, else ~/.cache."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser().resolve()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache").expanduser().resolve() / "forkpoint"


def tell(message: str) -> None:
    """Write a line on stderr."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def unpacked(path: Path, on_message: Callable[[str], None] = tell) -> Path:
    """The model directory of a GGUF file, which is unpacked if the cache does not hold it yet.

    `on_message` is told, before the work begins, what it takes. FileNotFoundError if there is no such file;
    ValueError if the file is damaged, or holds what cannot be unpacked without a loss, or if the disk has
    too little room; MissingPackageError without the package gguf.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no GGUF file at {path}")
    root = cache_directory() / "gguf"
    root.mkdir(parents=True, exist_ok=True)
    home = root / f"{digest_of(path, root)}-{UNPACKING}"
    if not home.is_dir():
        with _alone(home, on_message, path):
            if not home.is_dir():
                _fill(home, path, on_message)
    (directory,) = home.iterdir()
    return directory


def digest_of(path: Path, root: Path) -> str:
    """The digest of a file's content, 32 hexadecimal digits.

    It is remembered below `root` until the size or the time of change of the file differs.
    """
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    key = hashlib.blake2b(str(path.resolve()).encode(), digest_size=16).hexdigest()
    note = root / "digests" / f"{key}.json"
    try:
        noted = json.loads(note.read_bytes())
        if noted["stamp"] == stamp:
            return str(noted["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # not seen before, or torn
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    note.parent.mkdir(exist_ok=True)
    # a name of its own, since several processes may write the same note
    draft = note.with_name(f"{key}.{secrets.token_hex(4)}.tmp")
    draft.write_text(json.dumps({"stamp": stamp, "digest": digest}))
    draft.replace(note)
    return digest


@contextmanager
def _alone(home: Path, on_message: Callable[[str], None], path: Path) -> Iterator[None]:
    """The context in which no other process unpacks the same file."""
    with home.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_message(f"another process unpacks {path.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(home: Path, path: Path, on_message: Callable[[str], None]) -> None:
    header = GGUFHeader.read(path)
    _check_tensors(path, header)
    dtype = _dtype(header)
    size = header.num_parameters * (4 if dtype == "float32" else 2)
    free = shutil.disk_usage(home.parent).free
    if free < 1.05 * size:
        raise ValueError(
            f"unpacking {path} takes {size / 1e9:.1f} GB in {home.parent}, which has {free / 1e9:.1f} GB "
            f"left; make room, or name another directory in the environment variable {CACHE}"
        )
    on_message(
        f"unpacking {path.name} ({header.architecture}, {header.num_parameters / 1e6:,.0f}M parameters) to "
        f"{dtype} in {home}: takes about {15 + header.num_parameters / 1e9 * 60:.0f} s on idle cores, "
        f"{1 + 2 * size / 1e9:.1f} GB of memory and {size / 1e9:.1f} GB of disk; later runs find it there"
    )
    draft = home.with_suffix(".part")
    shutil.rmtree(draft, ignore_errors=True)  # a killed process left it
    try:
        directory = draft / _slug(header)
        directory.mkdir(parents=True)
        _convert(path, header, dtype, directory, on_message)
        origin = {"gguf": home.name, "unpacking": UNPACKING}
        replace_file(directory / UNPACKED_GGUF, [json.dumps(origin).encode()])
        try:
            draft.rename(home)
        except OSError:
            if not home.is_dir():  # another machine, on a file system without locks, was faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _slug(header: GGUFHeader) -> str:
    """A readable name that follows from the content: that of the model, without what paths cannot hold."""
    name = str(header.metadata.get("general.name") or header.architecture)
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "model"


def _dtype(header: GGUFHeader) -> str:
    types = {tensor.type_id for tensor in header.tensors}
    if types == {0}:
        return "float32"
    return "float16" if types <= {0, 1} else "bfloat16"


def _check_tensors(path: Path, header: GGUFHeader) -> None:
    """Refuse a file that is cut off, a part of several files, and tensors that cannot be unpacked."""
    try:
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"reading {path.name} needs the package gguf ({error}): pip install 'forkpoint[gguf]'"
        ) from error
    if header.metadata.get("split.count", 0) > 1:
        raise ValueError(
            f"{path} is one of {header.metadata['split.count']} parts of a model; merge them into one file "
            "with llama-gguf-split --merge"
        )
    size, readable = path.stat().st_size, set(FLOATS)
    for tensor in header.tensors:
        try:
            kind = GGMLQuantizationType(tensor.type_id)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if tensor.type_id not in readable:
                dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
                readable.add(tensor.type_id)
        except (ValueError, KeyError, NotImplementedError):
            raise ValueError(
                f"{path} holds {tensor.name} in a quantisation that the package gguf cannot unpack "
                f"(type {tensor.type_id}); take a file of another one, such as Q8_0 or Q4_K_M"
            ) from None
        end = header.data_start + tensor.offset + tensor.num_weights // block * block_bytes
        if end > size:
            raise ValueError(
                f"{path} is cut off: it has {size:,} bytes, and {tensor.name} ends at {end:,}; copy it again"
            )


def _convert(
    path: Path, header: GGUFHeader, dtype: str, directory: Path, on_message: Callable[[str], None]
) -> None:
    """Write the model and its tokenizer as a directory of transformers."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # a directory of its own, so that no file beside the GGUF file is taken for a part of the model
    source = directory / "source"
    source.mkdir()
    (source / "model.gguf").symlink_to(path.resolve())
    options: dict[str, Any] = {"gguf_file": "model.gguf"}
    try:
        config = load_pretrained(AutoConfig, source, **options)
        _add_rope_scaling(path, header, config)
        tokenizer = load_pretrained(AutoTokenizer, source, **options)
        if hasattr(transformers, "GgufConfig"):  # without it, older versions always unpack
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model, loading = load_pretrained(
            AutoModelForCausalLM,
            source,
            config=config,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **options,
        )
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"transformers {transformers.__version__} cannot unpack {path} (architecture "
            f"{header.architecture}): {error}; take the model's directory in the format of transformers"
        ) from error
    finally:
        shutil.rmtree(source)
    if loading["missing_keys"]:
        raise ValueError(
            f"{path} lacks weights of a causal language model of its architecture {header.architecture}: "
            f"{', '.join(sorted(loading['missing_keys'])[:3])}"
        )
    _set_pre_tokenizer(path, header, tokenizer, on_message)
    model.generation_config.eos_token_id = sorted(_end_ids(header, tokenizer))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _load_tokenizer_as_saved(directory / "tokenizer_config.json")


def _add_rope_scaling(path: Path, header: GGUFHeader, config: Any) -> None:
    """Add the rotary scaling of Llama 3.1, which transformers does not read; refuse all others."""
    stated = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    factors = next((tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None)
    if (stated == "none" and factors is None) or _is_scaled(config.rope_parameters):
        return
    if factors is not None and factors.type_id == 0 and header.architecture == "llama":
        import numpy as np

        start = header.data_start + factors.offset
        found = np.fromfile(path, dtype="<f4", count=factors.num_weights, offset=start)
        scaling = {"rope_type": "llama3", "factor": float(found.max()), **LLAMA3_ROPE}
        expected = _llama3_factors(scaling, config.rope_parameters["rope_theta"], len(found))
        if np.allclose(found, expected, rtol=1e-4):
            config.rope_parameters = {**config.rope_parameters, **scaling}
            return
    raise ValueError("its rotary scaling is not read, and the model would see wrong positions without it")


def _is_scaled(rope: Any) -> bool:
    if not isinstance(rope, dict):
        return False
    return rope.get("rope_type", "default") != "default" or any(_is_scaled(value) for value in rope.values())


def _llama3_factors(scaling: dict[str, Any], theta: float, num: int) -> list[float]:
    """The divisors of the rotary frequencies under the scaling of Llama 3.1."""
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for idx in range(num):
        wave_length = 2 * math.pi * theta ** (idx / num)
        num_waves = scaling["original_max_position_embeddings"] / wave_length
        share = min(1.0, max(0.0, (num_waves - low) / (high - low)))
        factors.append(1 / ((1 - share) / factor + share))
    return factors


def _set_pre_tokenizer(
    path: Path, header: GGUFHeader, tokenizer: Any, on_message: Callable[[str], None]
) -> None:
    """Split text as the file says, also if transformers does not know the way; warn if nobody does."""
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    kind = header.metadata.get("tokenizer.ggml.pre", "default")
    if header.metadata.get("tokenizer.ggml.model") != "gpt2" or kind in AS_GPT2:
        return
    if kind in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif kind not in getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {}):
        on_message(
            f"warning: the pre-tokenizer {kind!r} of {path.name} is not known, and text is split as for "
            "GPT-2, perhaps not as in the model's training"
        )


def _end_ids(header: GGUFHeader, tokenizer: Any) -> set[int]:
    """The tokens that end a completion: those that the file names, and those of its chat template."""
    named = (header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    known = (tokenizer.convert_tokens_to_ids(token) for token in END_TOKENS)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return {
        token_id
        for token_id in (*named, turn_end(tokenizer), *(id_ for id_ in known if id_ in special))
        if token_id is not None
    }


def _load_tokenizer_as_saved(path: Path) -> None:
    """Let `tokenizer.json` alone define the tokenizer.

    The class of the architecture would replace the pre-tokenizer by its own.
    """
    config = json.loads(path.read_bytes())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    replace_file(path, [json.dumps(config, indent=2, ensure_ascii=False).encode()])
