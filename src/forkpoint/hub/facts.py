"""What run directories record of labels, of a training and of an evaluation.

Invariant: nothing is computed from names or paths, and no path leaves this file: a problem set is told by its scheme and the last part
of its place. Facts that are not recorded are None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from forkpoint.checkpoint import fingerprint
from forkpoint.errors import RunError
from forkpoint.formats.labels_file import LABELS, labels_digest, read_labelled
from forkpoint.labels.run import label_config_of
from forkpoint.labels.values import OUTCOME, PRODUCTS, canonical_value
from forkpoint.runs import Run
from forkpoint.runs.run import CONFIG
from forkpoint.training.prm import TRAINING


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """A file of labels, and the run that made it."""

    num_problems: int
    num_solutions: int
    num_steps: int
    num_correct: int
    """Solutions with the right answer."""
    labels: dict[str, Any] | None
    """What labels were derived (see `LabelConfig`), and the anchor rule."""
    run: dict[str, Any] | None
    """The configuration of the run."""
    summary: dict[str, Any] | None
    """Of the finished run (see `LabelSummary`)."""

    @property
    def plan(self) -> str | None:
        return self.run["plan"] if self.run else None

    @property
    def value(self) -> str | None:
        return canonical_value(self.labels["value"], self.labels["eta"]) if self.labels else None

    @property
    def method(self) -> str | None:
        """The published label that plan and value make, with its source; None where one is unknown or nobody published it."""
        if self.plan is None or self.value is None:
            return None
        for product in PRODUCTS.values():
            value = canonical_value(product.value).partition(":")[0]
            if value == self.value.partition(":")[0] and (product.plan == self.plan or value == OUTCOME):
                return product.source
        return None


def label_facts(labels: Path) -> LabelFacts:
    """Of a label run, or of a file of labels. FileNotFoundError where there are none."""
    problems: set[str] = set()
    num_solutions = num_steps = num_correct = 0
    for solution in read_labelled(labels):
        problems.add(solution.problem_id)
        num_solutions, num_steps, num_correct = (
            num_solutions + 1,
            num_steps + len(solution.steps),
            num_correct + solution.is_correct,
        )
    config_path = label_config_of(labels / LABELS if labels.is_dir() else labels)
    run = summary = None
    directory = labels if labels.is_dir() else labels.parent
    if (labels.is_dir() or labels.name == LABELS) and (directory / CONFIG).is_file():
        with Run.read(directory) as found:
            if found.command == "label":
                run, summary = found.config, found.manifest["summary"] if found.manifest else None
    return LabelFacts(
        num_problems=len(problems),
        num_solutions=num_solutions,
        num_steps=num_steps,
        num_correct=num_correct,
        labels=json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else None,
        run=run,
        summary=summary,
    )


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """A PRM's training."""

    config: dict[str, Any]
    """`TrainConfig`, with a digest of the labels and the base: a hub id, or a fingerprint."""
    report: dict[str, Any]
    """See `TrainReport`."""
    version: str
    """Of forkpoint."""

    @property
    def base(self) -> str | None:
        """The base's hub id; None where it was a directory."""
        return self.config["base"] if "/" in self.config["base"] else None


def training_facts(prm: Path) -> TrainingFacts | None:
    """Of a PRM that `forkpoint train` saved; None where the directory does not hold its training. RunError where that is not finished."""
    if not (prm / TRAINING).is_dir():
        return None
    with Run.read(prm / TRAINING) as run:
        if run.manifest is None:
            raise RunError(f"the training at {prm} is not finished; run the same command again")
        return TrainingFacts(run.config, run.manifest["summary"], run.manifest["version"])


def check_labels(training: TrainingFacts | None, labels: Path) -> None:
    """Raises ValueError where a PRM was trained on other labels than these."""
    if training is not None and training.config["labels"] != labels_digest(labels):
        raise ValueError(
            f"the PRM was not trained on the labels at {labels}, or they were derived again since: name those that it was trained on"
        )


@dataclass(frozen=True, slots=True)
class EvaluationFacts:
    """What results.json says, as far as it concerns the PRM."""

    results: dict[str, Any]
    problems: str | None
    """The problem set, without the place where it lay."""
    is_of_this_prm: bool
    """Whether the run beside results.json says so; otherwise nothing does."""


def evaluation_facts(results: Path, prm: Path) -> EvaluationFacts:
    """Of a file written by `forkpoint evaluate`. ValueError where it measured no PRM, or another one."""
    if not results.is_file():
        raise FileNotFoundError(f"there is no file {results}; `forkpoint evaluate` writes OUT/results.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"config", "rows", "policy"} <= found.keys():
        raise ValueError(
            f"{results} was not written by `forkpoint evaluate`: it has not the keys config, rows and policy"
        )
    if not any(row["select"] == "best" for row in found["rows"]):
        raise ValueError(f"{results} measured no PRM: there is no best-of-N in it")
    run_directory, is_of_this_prm = results.parent / "evaluate", False
    if run_directory.is_dir():
        with Run.read(run_directory) as run:
            scorer = str(run.config["scorer"])
        is_of_this_prm = scorer.endswith(f"-{fingerprint(prm)}")
        if not is_of_this_prm:
            raise ValueError(
                f"{results} measured the PRM {scorer}, not the one at {prm}, whose name ends in {fingerprint(prm)}"
            )
    spec = found["config"].get("problems")
    return EvaluationFacts(found, public_spec(spec) if spec else None, is_of_this_prm)


def public_spec(spec: str) -> str:
    """A problem set's spec without the directories of the machine that it lay on."""
    place, mark, query = spec.partition("?")
    scheme, colon, path = place.rpartition(":")
    if scheme == "hub" and not path.startswith(("/", ".", "~")):
        return spec
    return f"{scheme}{colon}{PurePath(path).name}{mark}{query}"
