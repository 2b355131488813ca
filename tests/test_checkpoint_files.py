"""Checkpoints that cannot be loaded end in one sentence that names the file, and none executes code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import make_checkpoint
from forkpoint.errors import LayoutError
from forkpoint.policies import load_policy
from forkpoint.prms import load_prm
from forkpoint.prms.layout import FORMAT_FILE
from test_prms import make_prm

Change = Callable[[Path], Any]
SOURCE = Path(__file__).parents[1] / "src" / "forkpoint"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(directory / "policy")
    make_prm(directory / "prm")
    return directory


def cut(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def written(name: str, text: str) -> Change:
    return lambda directory: (directory / name).write_text(text)


def changed(name: str, **fields: Any) -> Change:
    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**content, **fields}))

    return change


@pytest.mark.parametrize("kind", ["policy", "prm"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, r"model\.safetensors is damaged or not complete"),
        (written("model.safetensors", "<html>" * 9), r"model\.safetensors is damaged or not complete"),
        (written("config.json", "[1]"), r"config\.json holds a list; it must be a JSON object"),
        (written("config.json", '{"a"'), r"config\.json is not JSON"),
        (written("tokenizer.json", "{"), r"tokenizer\.json is not JSON"),
        (written("tokenizer.json", "{}"), "the files of .*checkpoint cannot be read"),
        (written("tokenizer_config.json", "[]"), r"tokenizer_config\.json holds a list"),
        (written("model.safetensors.index.json", "[]"), r"index\.json holds a list"),
        (changed("config.json", hidden_size="a"), "the files of .*checkpoint cannot be read"),
        (changed("config.json", hidden_size=64), r"have other shapes than its config\.json says"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, healthy: Path, kind: str, change: Change, message: str
) -> None:
    directory = shutil.copytree(healthy / kind, tmp_path / "checkpoint")
    change(directory)
    with pytest.raises(ValueError, match=message):
        load_policy(directory) if kind == "policy" else load_prm(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a list; it must be a JSON object"),
        ("{", "is not JSON"),
        ('{"format_version": 1, "rule": [1]}', "is not the format of a PRM"),
        ('{"format_version": 1, "rule": {"tau": "a"}}', "is not the format of a PRM"),
        ('{"format_version": 1, "head": "x"}', "is not the format of a PRM: head 'x' is unknown"),
        ('{"format_version": 1, "max_length": "9"}', "max_length must be a whole number; it is '9'"),
        ('{"format_version": 1, "tag": null}', "tag must be a text; it is None"),
    ],
)
def test_a_format_that_cannot_be_read_is_named(
    tmp_path: Path, healthy: Path, text: str, message: str
) -> None:
    directory = shutil.copytree(healthy / "prm", tmp_path / "checkpoint")
    (directory / FORMAT_FILE).write_text(text)
    with pytest.raises(LayoutError, match=rf"forkpoint_prm\.json:? {message}"):
        load_prm(directory)


def needing_code(healthy: Path, tmp_path: Path) -> Path:
    """A checkpoint whose configuration names a file of code, which leaves a mark if it is executed."""
    directory = shutil.copytree(healthy / "policy", tmp_path / "checkpoint")
    (directory / "custom.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    changed(
        "config.json",
        model_type="custom",
        auto_map={"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"},
    )(directory)
    return directory


@pytest.mark.parametrize(
    "arguments",
    [
        ("label", "lab:test?num=1", "--policy", "CHECKPOINT", "--out", "OUT"),
        ("score", "CHECKPOINT", "solutions.jsonl", "--family", "math-shepherd", "--out", "OUT"),
        ("train", "labels.jsonl", "--base", "CHECKPOINT", "--out", "OUT", "--format.tag", "#"),
        ("doctor", "CHECKPOINT", "--kind", "policy"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_code_of_a_checkpoint_is_neither_executed_nor_asked_about(
    tmp_path: Path, healthy: Path, arguments: tuple[str, ...]
) -> None:
    directory = needing_code(healthy, tmp_path)
    label = {"value": 1.0, "num_correct": 1, "num_total": 1, "effective_size": 1.0, "low": 0.2, "high": 1.0}
    rows = [
        {"problem_id": "p", "question": "q", "steps": ["a"], "labels": [{**label, "value": value}]}
        | {"is_correct": value == 1}
        for value in (0.0, 1.0)
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "solutions.jsonl").write_text('{"question": "q", "steps": ["a"]}\n')
    given = [str(directory) if argument == "CHECKPOINT" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "forkpoint", *given],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        input="y\n" * 20,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = " ".join((done.stdout + done.stderr).replace("│", " ").split())
    assert done.returncode != 0
    assert "needs Python code of its own" in said and "forkpoint executes no code of a checkpoint" in said
    assert "Do you wish to run" not in said and "Traceback" not in said
    assert not (tmp_path / "executed").exists()


def test_every_load_goes_through_the_function_that_refuses_code() -> None:
    loads = {
        path.relative_to(SOURCE).as_posix(): re.findall(r"(\w+)\.from_pretrained\(", path.read_text())
        for path in SOURCE.rglob("*.py")
    }
    assert {name: found for name, found in loads.items() if found} == {
        "checkpoint.py": ["loader", "loader"],
        "policies/text.py": ["GenerationConfig"],  # holds no code
    }
