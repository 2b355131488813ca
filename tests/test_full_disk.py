"""A real disk that is full: a small tmpfs, which needs the right to mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkpoint.errors import RunError
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"The answer is 1": 0.7, "The answer is 2": 0.3},
    "two\n": {"The answer is 2": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "1") for idx in range(60)]
SIZES_KIB = (16, 32, 64, 96, 128, 192, 8192)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    if mount("-t", "tmpfs", "-o", f"size={SIZES_KIB[0]}k", "tmpfs", str(path)):
        pytest.skip(
            "a tmpfs cannot be mounted here (that needs root); "
            "disks that fill up are simulated in test_runs.py and test_journal.py"
        )
    yield path
    subprocess.run(["umount", str(path)], check=True)


def mount(*arguments: str) -> bool:
    """Whether it failed."""
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode != 0
    except FileNotFoundError:
        return True


def label(out: Path) -> None:
    plan = RolloutPlan(num_solutions=4, solution_temperature=1.0, num_rollouts=8)
    executor = LocalExecutor(chunk_size=8, progress=False)
    label_problems(
        PROBLEMS,
        ScriptedPolicy(SCRIPT),
        out,
        TreeConfig(max_tokens=8),
        LabelConfig(),
        executor,
        Sampling(plan),
    )


def test_labelling_goes_on_whenever_there_is_room_again(disk: Path, tmp_path: Path) -> None:
    label(tmp_path / "roomy")
    expected = {name: (tmp_path / "roomy" / name).read_bytes() for name in ("journal.jsonl", "labels.jsonl")}
    assert sum(map(len, expected.values())) > 3 * SIZES_KIB[0] * 1024
    num_full, kept = 0, 0
    for size in SIZES_KIB:
        assert not mount("-o", f"remount,size={size}k", str(disk))
        try:
            label(disk / "run")
        except (RunError, OSError) as error:
            assert "No space left" in str(error)
            num_full += 1
        journal = disk / "run" / "journal.jsonl"
        data = journal.read_bytes() if journal.exists() else b""
        assert len(data) >= kept and expected["journal.jsonl"].startswith(data)
        kept = len(data)
    assert num_full >= 3
    assert {name: (disk / "run" / name).read_bytes() for name in expected} == expected
