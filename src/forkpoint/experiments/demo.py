"""The demo: label, train, evaluate and report from start to end, with the shipped lab policy.

Invariant: the demo consists of the public stages with small settings and nothing else; killed and started
again, it continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from forkpoint.checks import check_at_least
from forkpoint.evaluation.label_truth import PrefixConfig, measure_labels
from forkpoint.evaluation.origin import Origin
from forkpoint.evaluation.run import EvaluateConfig, Judge, SolutionSources, evaluate_policy, write_results
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import LabelSummary, label_format, label_problems
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.prms import load_prm
from forkpoint.problems import load_problems
from forkpoint.records import Problem
from forkpoint.runs.work import Executor
from forkpoint.training.config import TrainConfig, TrainReport
from forkpoint.training.held_out import num_held_out
from forkpoint.training.presets import preset_named
from forkpoint.training.prm import train_prm
from forkpoint.trees.grow import TreeConfig

LABEL_TAU = 0.5
"""Entropy threshold of the trees that are labelled. With the default of 1.0 the lab policy's anchors run
out at six leaves, and its skipped entries are never among them, so a PRM does not learn that they are
wrong. Trees of test problems keep the default."""
MAX_TOKENS = 160


@dataclass(frozen=True)
class DemoConfig:
    """The size of the demo; the defaults take about five minutes on 2 cores."""

    num_train_problems: int = 1000
    """Problems whose EDU trees are labelled."""
    num_train_steps: int = 950
    """Optimiser steps of the PRM, with two trees each."""
    num_test_problems: int = 240
    """Problems that the PRM is evaluated on."""
    num_threshold_problems: int = 60
    """Problems of a third split that choose the first-error threshold."""
    num_samples: int = 16
    """Solutions per test problem, and leaves of every tree."""
    num_prefixes: int = 60
    """Labelled prefixes whose true value is estimated."""
    num_rollouts: int = 32
    """Rollouts per such prefix."""
    seed: int = 0
    """Seed of problems, training and sampling."""

    def __post_init__(self) -> None:
        check_at_least(1, **{name: number for name, number in asdict(self).items() if name != "seed"})

    @property
    def tree(self) -> TreeConfig:
        """The trees of test problems."""
        return TreeConfig(num_leaves=self.num_samples, max_tokens=MAX_TOKENS)

    @property
    def label_tree(self) -> TreeConfig:
        """The trees that are labelled."""
        return replace(self.tree, tau=LABEL_TAU)

    @property
    def evaluation(self) -> EvaluateConfig:
        """How solutions of test problems are sampled."""
        return EvaluateConfig(self.num_samples, max_tokens=MAX_TOKENS, seed=self.seed)

    def problems(self, split: Literal["train", "valid", "test"]) -> list[Problem]:
        """The lab problems that are labelled, that choose the threshold, or that are evaluated."""
        nums = {
            "train": self.num_train_problems,
            "valid": self.num_threshold_problems,
            "test": self.num_test_problems,
        }
        return load_problems(f"lab:{split}?num={nums[split]}&seed={self.seed}")

    def training(self, labels: Path) -> TrainConfig:
        """How the PRM is trained on the labels in a directory."""
        preset = preset_named("lab")
        num_trained = self.num_train_problems - num_held_out(self.num_train_problems, preset.held_out_share)
        return replace(
            preset,
            num_epochs=self.num_train_steps * preset.batch_size / num_trained,
            seed=self.seed,
            format=label_format(labels, preset.format),
        )


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The results of the demo, and the reports of its stages."""

    results: dict[str, Any]
    labels: LabelSummary
    training: TrainReport


def run_demo(
    out: Path,
    config: DemoConfig,
    executor: Executor,
    on_stage: Callable[[str], None] = lambda _: None,
    on_train_step: Callable[[int, int, float], None] | None = None,
) -> DemoResult:
    """Run all stages; writes label/, prm/, evaluate/, truth/, results.json and trees.json to `out`."""
    policy = load_policy("lab")
    seconds: dict[str, float] = {}

    def timed(name: str, started: float) -> None:
        seconds[name] = round(time.monotonic() - started, 1)

    on_stage(f"label: EDU trees on {config.num_train_problems} problems of lab:train")
    started = time.monotonic()
    labels = label_problems(
        config.problems("train"), policy, out / "label", config.label_tree, LabelConfig(), executor
    )
    timed("label", started)

    on_stage("train: a PRM on the labelled steps, from the policy's weights")
    started = time.monotonic()
    training_config = config.training(out / "label")
    training = train_prm(out / "label", str(LAB_POLICY), out / "prm", training_config, on_train_step)
    timed("train", started)

    started = time.monotonic()
    prm = load_prm(out / "prm")
    evaluation = evaluate_policy(
        config.problems("test"),
        policy,
        out / "evaluate",
        SolutionSources(config.evaluation, config.tree),
        executor,
        Judge(prm, prm.format, config.problems("valid")),
        on_stage=lambda stage: on_stage(f"evaluate: {stage}"),
    )
    timed("evaluate", started)
    on_stage("label quality: labels against many rollouts of the same prefixes")
    started = time.monotonic()
    prefix_config = PrefixConfig(config.num_prefixes, config.num_rollouts, seed=config.seed)
    truth = measure_labels(out / "label", policy, out / "truth", prefix_config, executor, MAX_TOKENS)
    timed("label quality", started)
    resolved = {
        "demo": asdict(config),
        "label_tree": asdict(config.label_tree),
        "tree": asdict(config.tree),
        "train": training_config.to_row(),
    }
    origin = Origin.now("lab", str(out / "prm"))
    results = write_results(out, evaluation, resolved, policy, seconds, truth, origin)
    return DemoResult(results, labels, training)
