"""The command that trains the demo's PRM with many seeds: its figures are the demo's, its table the docs'."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from forkpoint.experiments.demo import DemoConfig, run_demo
from forkpoint.runs import LocalExecutor

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanations" / "robust_training.md"
SMALL = {"num_train_problems": 13, "num_train_steps": 3, "num_test_problems": 4, "num_threshold_problems": 3}
SMALL |= {"num_samples": 3, "num_prefixes": 2, "num_rollouts": 2}


@pytest.fixture
def demo_seeds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_seeds", ROOT / "recipes" / "demo_seeds.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo_seeds", module)
    spec.loader.exec_module(module)
    return module


def row(arm: str, seed: int, accuracy: float, gain: float, demo_seeds: ModuleType) -> dict[str, Any]:
    figures = {pick: {"accuracy": accuracy, "gain": gain} for pick in demo_seeds.PICKS}
    return {
        "arm": arm,
        "seed": seed,
        "own": figures,
        "first": {pick: {"accuracy": accuracy / 2} for pick in demo_seeds.PICKS},
        "first_error": {"f1": accuracy / 4},
    }


@pytest.mark.slow
def test_the_figures_are_those_of_the_demo(
    demo_seeds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_seeds, "DemoConfig", partial(DemoConfig, **SMALL))
    for seed in (0, 1):
        demo_seeds.make_stock(tmp_path, seed)
    demo_seeds.measure(tmp_path, "demo", 1, "native")
    found = json.loads((tmp_path / "results" / "demo-1-native.json").read_text())
    result = run_demo(tmp_path / "demo", DemoConfig(seed=1, **SMALL), LocalExecutor(progress=False))
    of_demo = {
        (line["sampler"], line["select"]): line
        for line in result.results["rows"]
        if line["n"] == SMALL["num_samples"] and line["aggregate"] in (None, "min")
    }
    for pick in demo_seeds.PICKS:
        kind, _, select = pick.partition(" ")
        line = of_demo[("edu" if kind == "edu" else "ht"), select]
        assert found["own"][pick]["accuracy"] == pytest.approx(line["accuracy"], abs=1e-9), pick
        assert found["own"][pick]["tokens"] == pytest.approx(line["sampled_tokens_per_problem"]), pick
    assert found["first_error"]["f1"] == result.results["first_error"]["f1"]
    assert found["loss"] == pytest.approx(result.training.loss)
    # the same PRM on the problems of the first seed
    assert found["first"]["ht majority"] != found["own"]["ht majority"]


def test_arms_differ_from_the_demo_where_they_say(demo_seeds: ModuleType, tmp_path: Path) -> None:
    def settings(arm: str) -> tuple[str, float]:
        config = demo_seeds.of_arm(arm, DemoConfig(), tmp_path)
        return config.format.tag, config.adam_beta2

    assert settings("demo") == ("\n", 0.98)
    assert settings("line-ends") == ("\n", 0.999)
    assert settings("adam") == (" ки", 0.98)
    assert settings("tags") == (" ки", 0.999)
    with pytest.raises(ValueError, match="arm 'luck' is unknown"):
        settings("luck")


def test_the_table_has_the_worst_median_and_best_of_each_group(demo_seeds: ModuleType) -> None:
    rows = [row("demo", seed, accuracy, accuracy - 0.5, demo_seeds) for seed, accuracy in
            ((0, 0.9), (8, 0.5), (9, 0.625), (10, 0.75))]  # fmt: skip
    lines = demo_seeds.markdown(rows).splitlines()
    assert len(lines) == 2 + 2 * (len(demo_seeds.PICKS) + 1)
    best = next(line for line in lines if "from 8" in line and "best of 16" in line)
    cells = [cell.strip() for cell in best.split("|")[1:-1]]
    assert cells[2:] == [
        *("3", "best of 16 samples", "0.500", "0.625", "0.750"),
        *("+0.000", "+0.125", "+0.250", "+0.125 (+0.000 .. +0.250)", "0.250 .. 0.375"),
    ]


def test_the_docs_show_the_table_of_the_committed_results(demo_seeds: ModuleType) -> None:
    rows = json.loads(demo_seeds.RESULTS.read_text())["rows"]
    assert demo_seeds.markdown(rows) in PAGE.read_text(), "python recipes/demo_seeds.py --out DIR --table"
