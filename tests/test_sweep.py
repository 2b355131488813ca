"""Sweeps and presets: variants from one journal judged on the same samples, and papers' settings by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import make_checkpoint
from forkpoint.cli import app
from forkpoint.estimates import bootstrap, bootstrap_seeds
from forkpoint.experiments.sweep import SweepConfig, SweepInputs, run_sweep, variants_of
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor
from forkpoint.training.config import TrainConfig
from forkpoint.training.presets import PRESETS, preset_named
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"a\n": 0.6, "b\n": 0.4},
    "a\n": {"The answer is 1": 0.8, "The answer is 2": 0.2},
    "b\n": {"The answer is 2": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"q{idx}", "1") for idx in range(6)]
QUIET = LocalExecutor(chunk_size=16, progress=False)
TRAIN = TrainConfig(
    learning_rate=1e-2,
    num_epochs=2,
    batch_size=2,
    micro_batch_size=2,
    format=PRMFormat(tag="#", max_length=128),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label run and a base model."""
    path = tmp_path_factory.mktemp("sweep")
    plan = RolloutPlan(num_solutions=4, num_rollouts=4, solution_temperature=1.0)
    label_problems(
        PROBLEMS,
        ScriptedPolicy(SCRIPT),
        path / "labels",
        TreeConfig(max_tokens=8),
        LabelConfig(),
        QUIET,
        Sampling(plan),
    )
    make_checkpoint(path / "base", initializer_range=0.1)
    return path


def sweep(
    made: Path, out: Path, policy: ScriptedPolicy | None = None, train: TrainConfig = TRAIN
) -> dict[str, Any]:
    variants = variants_of(["mean", "er:2", "outcome"], [], LabelConfig(), train)
    config = SweepConfig(num_samples=8, temperature=1.0, max_tokens=8, num_seeds=2)
    sampler = policy or ScriptedPolicy(SCRIPT)
    inputs = SweepInputs(made / "labels", variants, str(made / "base"), PROBLEMS, sampler)
    return run_sweep(inputs, out, config, QUIET)


@pytest.mark.slow
def test_variants_are_judged_on_the_same_samples(made: Path, tmp_path: Path) -> None:
    results = sweep(made, tmp_path / "out")
    assert [variant["name"] for variant in results["variants"]] == ["mean", "er-2", "outcome"]
    best = {
        (row["variant"], row["n"]): row
        for row in results["rows"]
        if row["select"] == "best" and row["aggregate"] == "min"
    }
    assert set(best) == {(name, n) for name in ("mean", "er-2", "outcome") for n in (4, 8)}
    majority = {row["n"]: row for row in results["rows"] if row["select"] == "majority"}
    for row in results["differences"]:
        if row["select"] == "best" and row["aggregate"] == "min":
            other = majority[row["n"]] if row["minus"] == "majority" else best["mean", row["n"]]
            assert row["mean"] == pytest.approx(best[row["variant"], row["n"]]["mean"] - other["mean"])
            assert row["ci_low"] <= row["mean"] <= row["ci_high"]
    assert {row["minus"] for row in results["differences"] if row["variant"] == "mean"} == {"majority"}
    formats = {
        name: json.loads((tmp_path / "out" / f"{name}-seed0" / "prm" / "forkpoint_prm.json").read_text())
        for name in ("mean", "outcome")
    }
    assert (formats["mean"]["segmentation"], formats["outcome"]["segmentation"]) == ("newline", "solution")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text()) == results


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(made: Path, tmp_path: Path) -> None:
    results = sweep(made, tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len(stamps) == 6
    policy = ScriptedPolicy(SCRIPT)
    again = sweep(made, tmp_path / "out", policy)
    assert (again, policy.requests) == (results, [])
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_rates_and_values_are_crossed_and_must_differ() -> None:
    names = [variant.name for variant in variants_of(["mean", "er:5"], [1e-3, 1e-4], LabelConfig(), TRAIN)]
    assert names == ["mean-lr0.001", "mean-lr0.0001", "er-5-lr0.001", "er-5-lr0.0001"]
    with pytest.raises(ValueError, match="variants must differ; mean, mean"):
        variants_of(["mean", "shepherd-soft"], [], LabelConfig(), TRAIN)


def test_presets_hold_the_papers_settings_and_flags_override_them() -> None:
    er = preset_named("er-prm")
    assert (er.learning_rate, er.batch_size, er.num_epochs, er.packing) == (1e-6, 64, 1.0, "flat")
    assert (er.format.tag, er.format.good, er.format.bad) == (" ки", " +", " -")
    assert (er.format.max_length, er.format.aggregate) == (512, "min")
    assert preset_named("edu-prm").num_epochs == 5.0
    with pytest.raises(ValueError, match="choose from " + ", ".join(PRESETS)):
        preset_named("er")


@pytest.mark.parametrize(
    ("command", "prefix", "name"),
    [
        (["train", "labels", "--out", "prm"], "", "config"),
        (["sweep", "labels", "--problems", "lab:test", "--out", "out"], "train.", "train"),
    ],
)
def test_flags_override_presets_also_with_what_the_default_is_without_one(
    command: list[str], prefix: str, name: str
) -> None:
    def parsed(*flags: str) -> Any:
        _, bound, _ = app.parse_args([*command, *flags], print_error=False, exit_on_error=False)
        return bound.arguments.get(name, TrainConfig())

    for preset, config in PRESETS.items():
        assert parsed("--preset", preset) == config
    lab = preset_named("lab")
    assert (lab.format.head, TrainConfig().format.head) == ("classifier", "tokens")
    flags = (
        f"--{prefix}format.head",
        "tokens",
        f"--{prefix}batch-size",
        "8",
        f"--{prefix}lora-targets",
        "q_proj",
    )
    given = replace(lab, batch_size=8, lora_targets=("q_proj",), format=replace(lab.format, head="tokens"))
    assert parsed("--preset", "lab", *flags) == parsed(*flags, "--preset", "lab") == given
    assert parsed() == TrainConfig()


def test_the_bootstrap_over_seeds_is_wider_where_seeds_differ() -> None:
    rng = np.random.default_rng(0)
    problems = rng.random(200)
    same = np.stack([problems, problems, problems, problems])
    differing = np.stack([problems + shift for shift in (-0.2, -0.1, 0.1, 0.2)])
    narrow, wide = bootstrap_seeds(same), bootstrap_seeds(differing)
    assert narrow.mean == pytest.approx(wide.mean) and wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert bootstrap_seeds(problems[None]) == bootstrap(problems)
    with pytest.raises(ValueError, match=r"\[S, P\]"):
        bootstrap_seeds(problems)
