"""Read what run directories record about labels, a training and an evaluation.

Invariant: nothing is inferred from names or paths, and no path leaves this file: a problem set is identified
by its scheme and the last part of its path. Facts that are not recorded are None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from forkpoint.checkpoint import fingerprint
from forkpoint.errors import RunError
from forkpoint.formats.labels_file import LABELS, labels_digest, read_labelled
from forkpoint.labels.run import read_label_config
from forkpoint.labels.values import OUTCOME, PRODUCTS, canonical_value
from forkpoint.runs import Run
from forkpoint.runs.run import CONFIG
from forkpoint.training.prm import TRAINING


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """Facts about a file of labels and the run that made it."""

    num_problems: int
    num_solutions: int
    num_steps: int
    num_correct: int
    """Number of solutions with the right answer."""
    labels: dict[str, Any] | None
    """How the labels were derived (see `LabelConfig`), with the anchor rule."""
    run: dict[str, Any] | None
    """The configuration of the run."""
    summary: dict[str, Any] | None
    """The summary of the finished run (see `LabelSummary`)."""

    @property
    def plan(self) -> str | None:
        return self.run["plan"] if self.run else None

    @property
    def value(self) -> str | None:
        return canonical_value(self.labels["value"], self.labels["eta"]) if self.labels else None

    @property
    def method(self) -> str | None:
        """The published method with this plan and value, with its source.

        None if plan or value is unknown, or the combination was not published.
        """
        if self.plan is None or self.value is None:
            return None
        for product in PRODUCTS.values():
            value = canonical_value(product.value).partition(":")[0]
            if value == self.value.partition(":")[0] and (product.plan == self.plan or value == OUTCOME):
                return product.source
        return None


def label_facts(labels: Path) -> LabelFacts:
    """Return the facts about a label run or a file of labels.

    Raises FileNotFoundError if it does not exist.
    """
    problems: set[str] = set()
    num_solutions = num_steps = num_correct = 0
    for solution in read_labelled(labels):
        problems.add(solution.problem_id)
        num_solutions, num_steps, num_correct = (
            num_solutions + 1,
            num_steps + len(solution.steps),
            num_correct + solution.is_correct,
        )
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
        labels=read_label_config(labels),
        run=run,
        summary=summary,
    )


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """Facts about the training of a PRM."""

    config: dict[str, Any]
    """`TrainConfig`, with a digest of the labels; the base is a hub id or a fingerprint."""
    report: dict[str, Any]
    """See `TrainReport`."""
    version: str
    """The version of forkpoint."""

    @property
    def base(self) -> str | None:
        """The hub id of the base model; None if it was a directory."""
        return self.config["base"] if "/" in self.config["base"] else None


def training_facts(prm: Path) -> TrainingFacts | None:
    """Return the facts about the training of a PRM saved by `forkpoint train`.

    None if the directory does not contain its training. Raises RunError if the training is not finished.
    """
    if not (prm / TRAINING).is_dir():
        return None
    with Run.read(prm / TRAINING) as run:
        if run.manifest is None:
            raise RunError(f"the training at {prm} is not finished; run the same command again")
        return TrainingFacts(run.config, run.manifest["summary"], run.manifest["version"])


def check_labels(training: TrainingFacts | None, labels: Path) -> None:
    """Raise ValueError if the PRM was trained on other labels."""
    if training is not None and training.config["labels"] != labels_digest(labels):
        raise ValueError(
            f"the PRM was not trained on the labels at {labels}, or they have been derived again since then; "
            "name the labels that it was trained on"
        )


@dataclass(frozen=True, slots=True)
class EvaluationFacts:
    """The contents of results.json that concern the PRM."""

    results: dict[str, Any]
    problems: str | None
    """The problem set, without its directory."""
    is_of_this_prm: bool
    """Whether the run next to results.json shows that this PRM was evaluated."""


def evaluation_facts(results: Path, prm: Path) -> EvaluationFacts:
    """Return the facts in a file written by `forkpoint evaluate`.

    Raises ValueError if no PRM or another PRM was evaluated.
    """
    if not results.is_file():
        raise FileNotFoundError(f"there is no file {results}; `forkpoint evaluate` writes OUT/results.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"config", "rows", "policy"} <= found.keys():
        raise ValueError(
            f"{results} was not written by `forkpoint evaluate`: it lacks the keys config, rows and policy"
        )
    if not any(row["select"] == "best" for row in found["rows"]):
        raise ValueError(f"{results} does not evaluate a PRM: it has no best-of-N rows")
    run_directory, is_of_this_prm = results.parent / "evaluate", False
    if run_directory.is_dir():
        with Run.read(run_directory) as run:
            scorer = str(run.config["scorer"])
        is_of_this_prm = scorer.endswith(f"-{fingerprint(prm)}")
        if not is_of_this_prm:
            raise ValueError(
                f"{results} evaluates the PRM {scorer}, not the one at {prm}, "
                f"whose name ends in {fingerprint(prm)}"
            )
    spec = found["config"].get("problems")
    return EvaluationFacts(found, public_spec(spec) if spec else None, is_of_this_prm)


def public_spec(spec: str) -> str:
    """Return the spec of a problem set without the directories of the local machine."""
    place, mark, query = spec.partition("?")
    scheme, colon, path = place.rpartition(":")
    if scheme == "hub" and not path.startswith(("/", ".", "~")):
        return spec
    return f"{scheme}{colon}{PurePath(path).name}{mark}{query}"
