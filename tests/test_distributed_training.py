"""Training by several processes: they learn what one process learns, and write one directory.

The processes come from the fork server, which has torch loaded; they find each other through a store in the
test, so no port is guessed. Two tests use torchrun itself. Sharded training (FSDP2) runs on CPUs as
accelerate sets it up on GPUs from the shipped recipe, in float32; DeepSpeed is not run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]
from transformers import AutoModelForCausalLM, Trainer

import fork_server
from checkpoints import make_checkpoint, make_tokenizer
from forkpoint.formats.labels_file import read_labelled, write_labelled
from forkpoint.prms import load_prm
from forkpoint.prms.layout import Layout, PRMFormat
from forkpoint.prms.tagged import tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.training.config import SFTConfig, SFTReport, SFTRow, TrainConfig, TrainReport
from forkpoint.training.loop import LengthSampler
from forkpoint.training.prm import train_prm
from forkpoint.training.prm_trainer import TagCollator, layout_rows, pack_rows, soft_cross_entropy
from forkpoint.training.sft import fine_tune
from labelled import label

pytestmark = pytest.mark.slow

NUM_PROCESSES = 2
PATIENCE_S = 300
"""For what takes seconds; nobody waits so long unless something hangs."""
RECIPES = Path(__file__).parents[1] / "recipes" / "accelerate"
Job = Callable[..., None]

FLAT = TrainConfig(
    learning_rate=3e-3,
    num_epochs=2,
    packing="flat",
    batch_size=8,
    micro_batch_size=2,
    save_every=2,
    held_out_share=0.0,
    format=PRMFormat(tag="#", max_length=200),
)
"""37 rows: in the last batch of an epoch one process has three rows and the other two, then blanks."""
CONFIGS = {
    "flat": FLAT,
    "tree": replace(FLAT, packing="tree", batch_size=4, micro_batch_size=1),
    "lora": replace(FLAT, lora_rank=4, learning_rate=1e-2),
    "classifier": replace(FLAT, format=replace(FLAT.format, head="classifier"), label_weighting="evidence"),
    "held out": replace(
        FLAT, packing="tree", batch_size=4, micro_batch_size=1, held_out_share=0.3, num_epochs=3
    ),
}
SFT = SFTConfig(learning_rate=3e-3, num_epochs=2, batch_size=4, micro_batch_size=1, save_every=100)


def unequal_solutions() -> list[LabelledSolution]:
    """37 solutions of 1 to 30 steps, longer ones worse: the mean of the processes' means is wrong."""
    solutions = []
    for idx in range(37):
        num_steps = 30 if idx % 4 == 0 else 1 + idx % 3
        steps = tuple(f"{'abc'[(idx + step) % 3]}{'xy'[idx % 2]}\n" for step in range(num_steps))
        labels = tuple(label(0.25 if num_steps > 3 else 1.0) for _ in steps)
        solutions.append(LabelledSolution(f"p{idx // 4}", f"q{idx // 4}", steps, labels, num_steps <= 3))
    return solutions


def sft_rows() -> list[SFTRow]:
    encode = make_tokenizer().encode
    return [
        SFTRow(tuple(encode(f"{idx}?")), (*encode("so" * (1 if idx % 2 else 12) + str(idx)), 1))
        for idx in range(9)
    ]


# What the processes do.


def train(name: str, base: Path, out: Path, config: TrainConfig | SFTConfig) -> TrainReport | SFTReport:
    """Train at `out`/`name`, with the loss of every step beside it."""
    losses: list[float] = []

    def on_step(num_done: int, num_steps: int, loss: float) -> None:
        losses.append(loss)
        (out / f"{name}.json").write_text(json.dumps(losses))

    if isinstance(config, SFTConfig):
        return fine_tune(sft_rows(), base, out / name, config, on_step=on_step)
    return train_prm(base / "labels.jsonl", str(base), out / name, config, on_step)


def train_all(base: Path, out: Path, names: Sequence[str]) -> None:
    """Several kinds of training, twice, and the reports of this process."""
    jobs: dict[str, TrainConfig | SFTConfig] = {**CONFIGS, "sft": SFT}
    reports = {name: train(name, base, out, jobs[name]) for name in names}
    assert {name: train(name, base, out, jobs[name]) for name in names} == reports
    (out / f"reports-{os.environ.get('RANK', 'alone')}.txt").write_text(repr(reports))


def train_uneven(base: Path, out: Path) -> None:
    """A batch that cannot be dealt out."""
    with pytest.raises(
        ValueError, match="batch_size 6 is not a multiple of micro_batch_size 2 times 2 processes"
    ):
        train("uneven", base, out, replace(FLAT, batch_size=6))


def train_and_stop(base: Path, out: Path, stop: int) -> None:
    """Train until step `stop`, then wait to be killed; the second process is slow to write its checkpoint."""

    def on_step(num_done: int, num_steps: int, loss: float) -> None:
        with (out / "steps").open("a") as file:
            file.write(f"{num_done}\n")
        if num_done == stop:
            (out / "stopped").touch()
            time.sleep(PATIENCE_S)

    save = Trainer._save_rng_state

    def save_late(self: Any, output_dir: str) -> None:
        time.sleep(0.3)
        assert not (Path(output_dir) / "trainer_state.json").exists(), (
            "the checkpoint counts as whole and is not"
        )
        save(self, output_dir)

    if os.environ["RANK"] != "0":
        Trainer._save_rng_state = save_late  # type: ignore[method-assign]
    train_prm(base / "labels.jsonl", str(base), out / "prm", CONFIGS["tree"], on_step)


# How they are started.


@dataclass
class Started:
    processes: list[BaseProcess]
    store: TCPStore

    def join(self) -> None:
        """Wait until all have ended well."""
        deadline = time.monotonic() + PATIENCE_S
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        exitcodes = [process.exitcode for process in self.processes]
        self.kill()
        assert exitcodes == [0] * len(exitcodes)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def start(job: Job, *args: Any, sharded: bool = False) -> Started:
    """Start the processes as torchrun does, or with FSDP as accelerate does."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = fsdp_environment() if sharded else {}
    processes = [
        fork_server.start(as_one_of_several, rank, store.port, environment, job, *args)
        for rank in range(NUM_PROCESSES)
    ]
    return Started(processes, store)


def as_one_of_several(rank: int, port: int, environment: dict[str, str], job: Job, *args: Any) -> None:
    os.environ.update(
        environment,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(NUM_PROCESSES),
        LOCAL_WORLD_SIZE=str(NUM_PROCESSES),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        GLOO_SOCKET_IFNAME="lo",
    )
    torch.set_num_threads(1)
    if environment:  # accelerate has FSDP for GPUs and their like only, so it is told that these are some
        init_process_group("gloo")
        PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    job(*args)


@cache
def fsdp_environment() -> dict[str, str]:
    """What `accelerate launch` makes of our recipe, in float32 and on CPUs."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(RECIPES / "fsdp_8gpu.yaml"), "-m", "forkpoint", "train"])
    settings = prepare_multi_gpu_env(_validate_launch_command(args)[0])
    chosen = {name: value for name, value in settings.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    return {**chosen, "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_TORCH_DEVICE": "cpu"}


def torchrun(*args: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={NUM_PROCESSES}",
        *args,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )


def flags(config: TrainConfig) -> list[str]:
    """The command line of FLAT and its like."""
    names = [
        "learning_rate",
        "num_epochs",
        "packing",
        "batch_size",
        "micro_batch_size",
        "save_every",
        "held_out_share",
    ]
    flat = [item for name in names for item in (f"--{name.replace('_', '-')}", str(getattr(config, name)))]
    return [*flat, "--format.tag", config.format.tag, "--format.max-length", str(config.format.max_length)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, labels beside it.

    It has no dropout, which would differ, and no biases: the bias of a key has no gradient, and Adam turns
    rounding errors into steps.
    """
    path = make_checkpoint(
        tmp_path_factory.mktemp("distributed") / "base",
        "llama",
        initializer_range=0.1,
        classifier_dropout=0.0,
        tie_word_embeddings=True,
    )
    write_labelled(path / "labels.jsonl", unequal_solutions())
    return path


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    """Models trained by one process (`alone`), two (`together`), two with half a model each (`sharded`)."""
    out = base.parent
    for name in ("alone", "together", "sharded"):
        (out / name).mkdir()
    two = start(train_all, base, out / "together", [*CONFIGS, "sft"])
    train_all(base, out / "alone", [*CONFIGS, "sft"])
    two.join()
    start(train_all, base, out / "sharded", ["tree", "lora", "held out"], sharded=True).join()
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def assert_close(one: Path, other: Path, moved_from: Path) -> None:
    """That the weights agree to a thousandth of what training changed."""
    before, ours, theirs = weights(moved_from), weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], rtol=1e-4, atol=1e-4), (
            name,
            (weight - theirs[name]).abs().max(),
        )
    moved = [float((weight - before[name]).abs().max()) for name, weight in ours.items() if name in before]
    assert max(moved) > 5e-3


@pytest.mark.parametrize(
    ("how", "name"),
    [
        *(("together", name) for name in (*CONFIGS, "sft")),
        ("sharded", "tree"),
        ("sharded", "lora"),
        ("sharded", "held out"),
    ],
)
def test_two_processes_learn_what_one_learns(how: str, name: str, base: Path, trained: Path) -> None:
    losses, expected = (
        json.loads((trained / which / f"{name}.json").read_text()) for which in (how, "alone")
    )
    assert len(losses) == len(expected) > 5
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert_close(trained / how / name, trained / "alone" / name, base)


def test_the_loss_is_the_mean_over_all_steps_of_the_whole_batch(base: Path, trained: Path) -> None:
    layout = Layout(make_tokenizer(), FLAT.format)
    solutions, encoded, _ = layout_rows(list(read_labelled(base / "labels.jsonl")), layout)
    rows = pack_rows(solutions, encoded, max_nodes=0)
    first = [
        rows[idx] for idx in list(LengthSampler([len(row["input_ids"]) for row in rows], 8, FLAT.seed))[:8]
    ]
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.eval()
    totals, counts = [], []
    for part in (first[0:2] + first[4:6], first[2:4] + first[6:8]):  # micro-batches are dealt out in turn
        batch = TagCollator(pad_id=0)(part)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits_K_2 = tag_logits(model, layout, inputs, batch["tag_rows"], batch["tag_columns"])
        totals.append(float(soft_cross_entropy(logits_K_2, batch["labels"])))
        counts.append(len(batch["labels"]))
    loss = json.loads((trained / "together" / "flat.json").read_text())[0]
    assert loss == pytest.approx(sum(totals) / sum(counts), rel=1e-5)
    mean_of_means = sum(total / count for total, count in zip(totals, counts, strict=True)) / NUM_PROCESSES
    assert abs(mean_of_means - loss) > 100 * 1e-5


def test_every_row_is_learned_once_per_epoch_in_the_batch_of_one_process() -> None:
    lengths = [(7 * idx) % 101 for idx in range(37)]
    alone = list(LengthSampler(lengths, 8, seed=0))
    padded = list(LengthSampler(lengths, 8, seed=0, num_blank=-37 % 4))
    assert padded == [*alone, 37, 37, 37]
    dealt = [[padded[start : start + 2] for start in range(2 * rank, len(padded), 4)] for rank in range(2)]
    assert len(dealt[0]) == len(dealt[1])
    for batch in range(5):  # of two micro-batches per process
        rows = [
            idx
            for micro_batches in dealt
            for rows in micro_batches[2 * batch : 2 * batch + 2]
            for idx in rows
        ]
        assert sorted(set(rows) - {37}) == sorted(alone[8 * batch : 8 * batch + 8])


@pytest.mark.parametrize("how", ["together", "sharded"])
def test_all_processes_report_the_same_and_one_whole_prm_comes_out(how: str, trained: Path) -> None:
    first, second = ((trained / how / f"reports-{rank}.txt").read_text() for rank in range(NUM_PROCESSES))
    assert first == second
    assert "packing='tree'" in first and "num_rows=37" in first
    path = trained / how / "tree"
    assert not (path / "training" / "checkpoints").exists()
    assert load_prm(path).score(["q1"], [["ax\n", "by\n"]])[0] == pytest.approx(
        load_prm(trained / "alone" / "tree").score(["q1"], [["ax\n", "by\n"]])[0], abs=1e-4
    )


@pytest.mark.parametrize("how", ["together", "sharded"])
def test_processes_share_the_held_out_rows_and_find_what_one_finds(how: str, trained: Path) -> None:
    found, expected = (
        [json.loads(line) for line in (trained / which / "held out/training/journal.jsonl").open()]
        for which in (how, "alone")
    )
    assert [row["key"] for row in found] == [row["key"] for row in expected]
    checks = [
        (row["held_out"], other["held_out"])
        for row, other in zip(found, expected, strict=True)
        if "held_out" in row
    ]
    assert len(checks) > 2
    for check, other in checks:
        assert check["num_problems"] == 3 and check["num_steps"] == other["num_steps"] > 20
        for name in ("loss", "constant_loss", "gain", "gain_low", "gain_high", "ece", "mean_score"):
            assert check[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("how", ["together", "sharded"])
def test_killed_together_two_processes_continue_to_the_same_weights(
    how: str, base: Path, trained: Path, tmp_path: Path
) -> None:
    sharded = how == "sharded"
    stop = len(json.loads((trained / how / "tree.json").read_text())) - 1
    assert (
        stop == 5
    )  # the checkpoint before it is in the middle of the second epoch, whose order is another one
    first = start(train_and_stop, base, tmp_path, stop, sharded=sharded)
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < deadline and all(process.is_alive() for process in first.processes)
        time.sleep(0.05)
    first.kill()
    if not sharded:
        shutil.copytree(tmp_path / "prm", tmp_path / "by one")
    (tmp_path / "steps").unlink()
    start(train_and_stop, base, tmp_path, -1, sharded=sharded).join()
    assert int((tmp_path / "steps").read_text().split()[0]) == stop
    for name, weight in weights(trained / how / "tree").items():
        assert torch.equal(weight, weights(tmp_path / "prm")[name]), name
    if not sharded:
        seen: list[int] = []
        train_prm(
            base / "labels.jsonl",
            str(base),
            tmp_path / "by one",
            CONFIGS["tree"],
            lambda num_done, *_: seen.append(num_done),
        )
        assert seen[0] == stop
        assert_close(tmp_path / "by one", trained / "alone" / "tree", base)


def test_torchrun_trains_what_one_process_trains(base: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "prm"
    found = torchrun(
        "-m",
        "forkpoint",
        "train",
        str(base / "labels.jsonl"),
        "--base",
        str(base),
        "--out",
        str(out),
        *flags(FLAT),
    )
    assert found.returncode == 0, found.stderr
    assert_close(out, trained / "alone" / "flat", base)


def test_a_process_that_fails_ends_the_others(base: Path, tmp_path: Path) -> None:
    command = 'exec "$0" -m forkpoint train "$@" --seed $RANK'
    paths = [str(base / "labels.jsonl"), "--base", str(base), "--out", str(tmp_path / "prm")]
    found = torchrun("--no-python", "bash", "-c", command, sys.executable, *paths, *flags(FLAT))
    assert found.returncode != 0
    assert "process 1 was given other labels, another base or other settings than process 0" in found.stderr
    assert not (tmp_path / "prm" / "model.safetensors").exists()


def test_a_batch_that_cannot_be_dealt_out_is_refused(base: Path, tmp_path: Path) -> None:
    start(train_uneven, base, tmp_path).join()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_every_key_of_the_recipes(path: Path) -> None:
    config = load_config_from_file(str(path))  # refuses keys that it does not know, but not within the parts
    known = vars(launch_command_parser().parse_args(["-m", "forkpoint"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()
    kind, zero_stage = {
        "ddp_8gpu": (DistributedType.MULTI_GPU, None),
        "fsdp_8gpu": (DistributedType.FSDP, None),
        "deepspeed_zero2_8gpu": (DistributedType.DEEPSPEED, 2),
        "deepspeed_zero3_8gpu": (DistributedType.DEEPSPEED, 3),
    }[path.stem]
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, 8, "bf16")
    assert config.deepspeed_config.get("zero_stage") == zero_stage


def test_the_fsdp_recipe_asks_for_fsdp2() -> None:
    assert fsdp_environment().items() >= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items()
