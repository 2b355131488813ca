"""Two hundred SIGKILLs at random moments of `label`, `train` and `raft`: nothing is lost or doubled.

Processes come from the fork server, which has torch loaded, so a kill costs a fraction of a second. Moments
are drawn between the start and the time that a whole run takes. A run that ends is compared with one that was
never killed: its data must be the same. Then it is started anew.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from checkpoints import make_checkpoint
from fork_server import start
from forkpoint.formats.labels_file import write_labelled
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Completion, Problem, Request, RequestSource
from forkpoint.runs import LocalExecutor
from forkpoint.training.config import TrainConfig
from forkpoint.training.prm import train_prm
from forkpoint.trees.grow import TreeConfig
from labelled import visible_errors
from test_raft import files_of as files_of_raft
from test_raft import learned

pytestmark = pytest.mark.slow

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"half\n": 0.5, "The answer is 2": 0.5},
    "one\nhalf\n": {"The answer is 1": 0.3, "The answer is 2": 0.7},
    "two\n": {"The answer is 1": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "1") for idx in range(40)]
TRAIN = TrainConfig(
    learning_rate=1e-2,
    num_epochs=6,
    batch_size=4,
    micro_batch_size=4,
    save_every=2,
    format=PRMFormat(tag="#", max_length=128),
)
NUM_KILLS = {"label": 110, "stream": 60, "train": 50, "raft": 40}
SHARE = {"label": 0.5, "stream": 0.5, "train": 1.1, "raft": 0.5}
"""Of the time of a whole run, before which a kill comes; training is short, and its start is most of it."""
Job = Callable[[Path, Path], None]


class SlowPolicy(ScriptedPolicy):
    """Takes a few milliseconds per call, so that kills meet it at work."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        time.sleep(0.005)
        return super().generate(requests)


class SlowStream(ScriptedPolicy):
    """Takes a few milliseconds per completion, so that kills meet rows in every state."""

    def stream(self, source: RequestSource) -> Iterator[tuple[Request, Completion]]:
        for pair in super().stream(source):
            time.sleep(0.002)
            yield pair


def stream(base: Path, out: Path) -> None:
    """Trees, then rollouts of their leaves, with few rows: completions come in any order."""
    plan = RolloutPlan(source="tree", num_rollouts=4)
    label_problems(
        PROBLEMS,
        SlowStream(SCRIPT, name="slow", num_rows=5),
        out,
        TreeConfig(num_leaves=4, tau=0.5, max_tokens=8),
        LabelConfig(),
        LocalExecutor(chunk_size=7, progress=False),
        Sampling(plan),
    )


def label(base: Path, out: Path) -> None:
    plan = RolloutPlan(num_solutions=4, solution_temperature=1.0, num_rollouts=8, stop_early=True)
    executor = LocalExecutor(chunk_size=3, progress=False)
    label_problems(
        PROBLEMS,
        SlowPolicy(SCRIPT, name="slow"),
        out,
        TreeConfig(max_tokens=8),
        LabelConfig(),
        executor,
        Sampling(plan),
    )


def train(base: Path, out: Path) -> None:
    train_prm(base / "labels.jsonl", str(base), out, TRAIN)


def raft(base: Path, out: Path) -> None:
    learned(out, base)


JOBS: dict[str, Job] = {"label": label, "stream": stream, "train": train, "raft": raft}


def files_of(job: str, out: Path) -> dict[str, bytes]:
    """What the job was asked for, and the journals it came from."""
    if job == "raft":
        return files_of_raft(out)
    if job in ("label", "stream"):
        return {
            name: (out / name).read_bytes() for name in ("journal.jsonl", "labels.jsonl", "label_config.json")
        }
    report = json.loads((out / "training" / "manifest.json").read_text())["summary"]
    names = (
        "model.safetensors",
        "forkpoint_prm.json",
        "config.json",
        "tokenizer.json",
        "training/journal.jsonl",
    )
    return {"report": json.dumps(report).encode(), **{name: (out / name).read_bytes() for name in names}}


def has_done_something(job: str, out: Path) -> bool:
    """Whether there are rows or checkpoints that a kill could spoil."""
    journal = out / "journal.jsonl"
    if job == "train":
        return any((out / "training").glob("checkpoints/*"))
    return journal.exists() and journal.stat().st_size > 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, with labels beside it."""
    path = make_checkpoint(tmp_path_factory.mktemp("kills") / "base", initializer_range=0.2)
    write_labelled(path / "labels.jsonl", visible_errors(12))
    return path


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_random_moments_the_data_is_that_of_a_run_that_never_was(
    job: str, base: Path, tmp_path: Path
) -> None:
    def finished(out: Path) -> float:
        started = time.monotonic()
        process = start(JOBS[job], base, out)
        process.join(120)
        assert process.exitcode == 0
        return time.monotonic() - started

    def is_short_of_work(num_at_work: int) -> bool:
        return num_at_work <= NUM_KILLS[job] / 4

    finished(tmp_path / "warm")  # the fork server loads its modules with the first
    duration = finished(tmp_path / "once")
    expected = files_of(job, tmp_path / "once")
    assert files_of(job, tmp_path / "warm") == expected
    rng = random.Random(job)
    num_kills = num_runs = num_at_work = 0
    reach = SHARE[job] * duration
    while num_kills < NUM_KILLS[job] or is_short_of_work(num_at_work):
        assert num_kills < 4 * NUM_KILLS[job], "the kills must meet runs that have something to lose"
        out = tmp_path / f"often-{num_runs}"
        process = start(JOBS[job], base, out)
        process.join(rng.uniform(0, reach))
        if process.exitcode is None:
            num_at_work += has_done_something(job, out)
            if num_kills > 10 and num_at_work < num_kills / 4:
                reach *= 1.1  # the machine has become slower since the duration was taken
            process.kill()
            process.join()
            num_kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            assert files_of(job, out) == expected, f"after {num_kills} kills"
            num_runs += 1
            if num_runs > num_kills + 5:
                reach *= 0.9  # the machine has become faster: more runs end than are killed
        else:
            assert process.exitcode == -signal.SIGKILL, "a continued run failed"
    finished(tmp_path / f"often-{num_runs}")
    assert files_of(job, tmp_path / f"often-{num_runs}") == expected
