"""One PRM per variant (label value, learning rate, seed), all judged on the same samples of solutions.

    OUT/NAME-seedS/labels.jsonl, prm/    labels derived from the label run, and the PRM trained on them
    OUT/samples/                         HT samples of the test problems, and every PRM's scores of them
    OUT/sweep.json                       accuracies with intervals, and paired differences from the reference

Invariant: variants differ only in what their names say; a sweep that was killed continues where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.checks import check_above, check_at_least
from forkpoint.content_key import content_key
from forkpoint.estimates import Estimate, bootstrap, bootstrap_seeds
from forkpoint.evaluation.metrics import Attempts, curve
from forkpoint.evaluation.run import EvaluateConfig, Evaluator, Judge, Sampler, SolutionSources
from forkpoint.formats.labels_file import LABELS
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import label_format, relabel
from forkpoint.prms import load_prm
from forkpoint.records import Policy, Problem
from forkpoint.runs import Run
from forkpoint.runs.durable import replace_file
from forkpoint.runs.work import Executor
from forkpoint.select import AGGREGATES, Aggregate
from forkpoint.training.config import TrainConfig
from forkpoint.training.prm import train_prm, train_report
from forkpoint.trees.grow import TreeConfig

SWEEP_VERSION = 1
RESULTS = "sweep.json"


@dataclass(frozen=True)
class Variant:
    """One entry of a sweep."""

    name: str
    """Also the name of its directory."""
    labels: LabelConfig
    train: TrainConfig


@dataclass(frozen=True)
class SweepConfig:
    """How the PRMs are judged."""

    num_samples: int = 64
    """HT samples per test problem; best-of-N is measured for N = 4, 8, ... up to it."""
    temperature: float = 0.7
    """Temperature of the samples."""
    max_tokens: int = 512
    """Maximum number of tokens of a sample."""
    num_seeds: int = 1
    """PRMs trained per variant, each with a seed of its own."""
    seed: int = 0
    """Seed of the samples, and the first of the training seeds."""
    num_rollouts: int | None = None
    """Completions per prefix that labels are derived from; by default, all."""

    def __post_init__(self) -> None:
        check_at_least(1, num_samples=self.num_samples, max_tokens=self.max_tokens, num_seeds=self.num_seeds)
        check_above(0, temperature=self.temperature)
        if self.num_rollouts is not None:
            check_at_least(1, num_rollouts=self.num_rollouts)

    @property
    def sizes(self) -> list[int]:
        """N of best-of-N."""
        return [n for n in (4, 8, 16, 32, 64, 128, 256) if n <= self.num_samples] or [self.num_samples]


@dataclass(frozen=True)
class SweepInputs:
    """The data and models that a sweep needs."""

    label_run: Path
    """The run whose outcomes all labels are derived from."""
    variants: Sequence[Variant]
    """The first one is the reference of the paired differences, beside majority vote."""
    base: str
    """The model that every PRM starts from."""
    problems: Sequence[Problem]
    """The test problems."""
    policy: Policy
    """The policy that samples their solutions."""


def variants_of(
    values: Sequence[str], learning_rates: Sequence[float], labels: LabelConfig, train: TrainConfig
) -> list[Variant]:
    """Every value with every learning rate (by default `train`'s). ValueError if two names are equal."""
    rates = list(learning_rates) or [train.learning_rate]
    found = []
    for value in values:
        config = replace(labels, value=value, eta=None)
        for rate in rates:
            name = config.canonical_value.replace(":", "-") + (f"-lr{rate:g}" if len(rates) > 1 else "")
            found.append(Variant(name, config, replace(train, learning_rate=rate)))
    if len({variant.name for variant in found}) < len(found):
        raise ValueError(f"variants must differ; {', '.join(variant.name for variant in found)} were given")
    return found


def run_sweep(
    inputs: SweepInputs,
    out: Path,
    config: SweepConfig,
    executor: Executor,
    on_stage: Callable[[str], None] = lambda _: None,
    on_train_step: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a PRM per variant and seed, judge all on the same samples; returns the content of sweep.json."""
    out.mkdir(parents=True, exist_ok=True)
    seeds = range(config.seed, config.seed + config.num_seeds)
    trained: dict[str, list[Path]] = {}
    for variant in inputs.variants:
        for seed in seeds:
            on_stage(f"train: {variant.name}, seed {seed}")
            prm_directory = _train(inputs, variant, seed, out, config, on_train_step)
            trained.setdefault(variant.name, []).append(prm_directory)
    evaluate_config = EvaluateConfig(
        config.num_samples, (config.temperature,), 1.0, config.max_tokens, config.seed
    )
    identity = {
        "policy": inputs.policy.name,
        "problems": content_key([asdict(problem) for problem in inputs.problems]),
        **asdict(evaluate_config),
    }
    on_stage(f"sample: {config.num_samples} per problem")
    with Run.open(out / "samples", "sweep", identity) as run:
        sources = SolutionSources(evaluate_config, TreeConfig(max_tokens=config.max_tokens))
        evaluator = Evaluator(inputs.policy, run, executor, sources)
        keys = evaluator.sample(inputs.problems, Sampler("ht", config.temperature), config.num_samples)
        plain = _accuracies(evaluator.attempts(keys, Judge()), config.sizes)
        scored: dict[str, list[dict[tuple[str, Aggregate | None, int], NDArray[np.float64]]]] = {}
        for name, directories in trained.items():
            on_stage(f"score: {name}")
            for directory in directories:
                prm = load_prm(directory)
                attempts = evaluator.attempts(keys, Judge(prm, prm.format))
                scored.setdefault(name, []).append(_accuracies(attempts, config.sizes))
        run.finish({"num_variants": len(inputs.variants)})
    results = _results(inputs.variants, plain, scored, config)
    results["training"] = {
        name: [asdict(train_report(path)) for path in paths] for name, paths in trained.items()
    }
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    replace_file(out / RESULTS, [text.encode()])
    found: dict[str, Any] = json.loads(text)
    return found


def _train(
    inputs: SweepInputs,
    variant: Variant,
    seed: int,
    out: Path,
    config: SweepConfig,
    on_step: Callable[[int, int, float], None] | None,
) -> Path:
    directory = out / f"{variant.name}-seed{seed}"
    labels = directory / LABELS
    if not labels.exists():
        directory.mkdir(parents=True, exist_ok=True)
        relabel(inputs.label_run, [(variant.labels, labels)], config.num_rollouts)
    train = replace(variant.train, seed=seed, format=label_format(labels, variant.train.format))
    train_prm(labels, inputs.base, directory / "prm", train, on_step, allow_constant_labels=True)
    return directory / "prm"


def _accuracies(
    attempts: Sequence[Attempts], sizes: Sequence[int]
) -> dict[tuple[str, Aggregate | None, int], NDArray[np.float64]]:
    """One accuracy per problem, by (way to pick, aggregate, N)."""
    return {
        (point.select, point.aggregate, point.n): point.accuracy_P
        for point in curve(attempts, sizes, is_exchangeable=True)
    }


def _results(
    variants: Sequence[Variant],
    plain: dict[Any, Any],
    scored: dict[str, list[dict[Any, Any]]],
    config: SweepConfig,
) -> dict[str, Any]:
    rows, differences = [], []
    for n in config.sizes:
        for select in ("majority", "oracle"):
            rows.append(
                {
                    "variant": None,
                    "select": select,
                    "aggregate": None,
                    "n": n,
                    **_fields(bootstrap(plain[select, None, n])),
                }
            )
    for variant in variants:
        for select in ("best", "weighted"):
            for how in AGGREGATES:
                for n in config.sizes:
                    accuracy_S_P = np.stack([found[select, how, n] for found in scored[variant.name]])
                    row = {"variant": variant.name, "select": select, "aggregate": how, "n": n}
                    rows.append({**row, **_fields(bootstrap_seeds(accuracy_S_P))})
                    reference_S_P = np.stack([found[select, how, n] for found in scored[variants[0].name]])
                    for name, other_S_P in (
                        (variants[0].name, reference_S_P),
                        ("majority", plain["majority", None, n]),
                    ):
                        if name != variant.name:
                            difference = bootstrap_seeds(accuracy_S_P - other_S_P)
                            differences.append({**row, "minus": name, **_fields(difference)})
    return {
        "version": SWEEP_VERSION,
        "config": asdict(config),
        "variants": [
            {"name": variant.name, "labels": asdict(variant.labels), "train": variant.train.to_row()}
            for variant in variants
        ],
        "rows": rows,
        "differences": differences,
    }


def _fields(estimate: Estimate) -> dict[str, Any]:
    return {
        "mean": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "num_problems": estimate.num_problems,
    }
