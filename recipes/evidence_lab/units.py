"""Train the PRM of one variant and seed, and score the shared solutions with it.

    SETTING/units/VARIANT-seedS/labels.jsonl, prm/    its training labels, and the PRM
    .../SOLUTIONS-N.npz                               its step scores, and the picks on every problem

Invariant: a unit is a function of its setting, variant and seed; the same command makes what is missing. Seed
S decides the training problems and their order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.evaluation.metrics import Attempts, curve
from forkpoint.formats.labels_file import read_labelled, write_labelled
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import anchor_rule, tree_outcomes
from forkpoint.labels.leaves import Leaves, final_label, tally_label
from forkpoint.labels.run import derive_labels
from forkpoint.policies import checkpoint_of
from forkpoint.prms import load_prm
from forkpoint.records import LabelledSolution, Scorer
from forkpoint.runs import Run
from forkpoint.solutions.work import outcome_of
from forkpoint.steps import Segmentation
from forkpoint.training.presets import preset_named
from forkpoint.training.prm import train_prm

from .cuts import steps_of
from .stock import RULE, Solved, Stock, patiently
from .variants import Variant

Floats = NDArray[np.float64]
PROBLEMS_AT_A_TIME = 16


@dataclass(frozen=True)
class Unit:
    """A PRM of a stock."""

    stock: Stock
    variant: Variant
    seed: int
    learning_rate: float
    directory: Path

    @property
    def prm(self) -> Path:
        """Return the trained PRM."""
        directory = self.directory / "prm"
        if not (directory / "forkpoint_prm.json").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            labels = self.directory / "labels.jsonl"
            patiently(lambda: self._train(labels, directory))
        return directory

    def _train(self, labels: Path, directory: Path) -> None:
        if not labels.exists():
            write_labelled(labels, self._labelled())
        num_rows = len({solution.problem_id for solution in read_labelled(labels)})
        batch_size = (
            2 if "edu" in self.variant.source else 4
        )  # trees of four samples are half as large as those of sixteen leaves
        preset = preset_named("lab")
        segmentation: Segmentation = (
            "entropy" if self.cut == "entropy" else "solution" if self.cut == "solution" else "newline"
        )
        config = replace(
            preset,
            # the evidence was made before the preset read at line ends, and with the usual beta2 and dropout
            adam_beta2=0.999,
            head_dropout=None,
            format=replace(
                preset.format,
                tag=" ки",
                replaces_line_end=False,
                head=self.variant.head,
                segmentation=segmentation,
                rule=RULE,
            ),
            learning_rate=self.learning_rate,
            num_epochs=self.stock.scale.num_train_steps * batch_size / num_rows,
            batch_size=batch_size,
            micro_batch_size=batch_size,
            label_weighting="evidence" if self.variant.evidence else "uniform",
            seed=self.seed,
            held_out_share=0.0,  # the evaluation is on other problems
        )
        train_prm(labels, str(checkpoint_of(self.stock.setting.policy)), directory, config)

    @property
    def problem_ids(self) -> list[str]:
        """Return the training labels."""
        stock, variant = self.stock, self.variant
        problems = stock.train_problems("edu" if variant.is_large else "rollouts")
        if variant.is_large:
            return [problem.id for problem in problems]
        drawn = random.Random(self.seed).sample(problems[: stock.scale.num_train], stock.scale.num_per_seed)
        num = max(1, round(len(drawn) * variant.share))
        if variant.budget == "edu":
            budget = stock.label_cost("edu").solutions * len(drawn)
            num = max(
                1,
                min(
                    len(drawn),
                    round(budget / stock.label_cost(variant.source).per_problem(self.num_rollouts)),
                ),
            )
        return [problem.id for problem in drawn[:num]]

    @property
    def num_rollouts(self) -> int | None:
        """Return the completions per prefix that its labels use, up to those in the stock; None for all."""
        wanted = self.variant.num_rollouts
        return wanted and min(wanted, self.stock.label_cost(self.variant.source).num_rollouts)

    @property
    def label_tokens(self) -> float:
        """Return the tokens sampled for its labels."""
        return len(self.problem_ids) * self.stock.label_cost(self.variant.source).per_problem(
            self.num_rollouts
        )

    def _labelled(self) -> Iterator[LabelledSolution]:
        variant, chosen = self.variant, set(self.problem_ids)
        config = LabelConfig(value=variant.value)
        for source in variant.source.split("+"):
            with Run.read(self.stock.labels(source)) as run:
                if source == "edu":
                    yield from self._of_leaves(run, chosen, config)
                elif source == "samples":
                    yield from own_outcomes(run, chosen, config)
                else:
                    found = derive_labels(run, config, num_rollouts=self.num_rollouts)
                    yield from (solution for solution in found if solution.problem_id in chosen)

    def _of_leaves(self, run: Run, chosen: set[str], config: LabelConfig) -> Iterator[LabelledSolution]:
        variant, rule, rate = self.variant, anchor_rule(run), self.stock.random_rate()
        for outcome in tree_outcomes(run):
            if outcome.problem.id not in chosen:
                continue
            leaves = Leaves(outcome.tree, [end.is_correct for end in outcome.ends], variant.weighting)
            for idx, end in enumerate(outcome.ends):
                steps, ends = steps_of(outcome.path(idx), variant.cut, rule, rate)
                labels = tuple(leaves.label(idx, num_tokens, config.step_value) for num_tokens in ends)
                yield LabelledSolution(
                    outcome.problem.id, outcome.problem.question, steps, labels, end.is_correct
                )

    @property
    def cut(self) -> str:
        """Return how the solutions that it scores are cut."""
        return "solution" if self.variant.value == "outcome" else self.variant.cut

    def judged(self, solutions: str, num: int) -> Judged:
        """Return its scores of the first `num` solutions of every problem, and the resulting picks."""
        path = self.directory / f"{solutions}-{num}.npz"
        solved = [replace(item, attempts=item.attempts[:num]) for item in self.stock.solutions(solutions)]
        if not path.exists():
            most = self.stock.num_solutions(solutions)
            if num < most and (self.directory / f"{solutions}-{most}.npz").exists():
                scores = [
                    [list(map(float, steps)) for steps in problem_scores[:num]]
                    for _, problem_scores in self.judged(solutions, most).step_scores()
                ]
            else:
                scores = score(load_prm(self.prm), solved, self.cut)
            partial = path.with_suffix(".partial.npz")
            np.savez_compressed(
                partial, **_arrays(solved, scores, is_exchangeable="-ht-" in solutions, num=num)
            )
            partial.replace(path)
        with np.load(path) as arrays:
            return Judged(solved, self.cut, {name: arrays[name] for name in arrays.files})


def own_outcomes(run: Run, chosen: set[str], config: LabelConfig) -> Iterator[LabelledSolution]:
    """Label every step of the samples of a run by the outcomes of the samples that begin with its prefix.

    One outcome is an unbiased estimate of a prefix's value, at no cost beyond the sample (as Cobbe et al.,
    arXiv 2110.14168, train verifiers on the outcome at every token).
    """
    for row in run.rows():
        if row["kind"] != "samples" or row["problem"]["id"] not in chosen:
            continue
        outcome = outcome_of(row)
        cuts = [outcome.path(idx).steps("newline", RULE)[0] for idx in range(len(outcome.ends))]
        below: dict[str, list[bool]] = {}
        for steps, end in zip(cuts, outcome.ends, strict=True):
            for prefix in accumulate(steps):
                below.setdefault(prefix, []).append(end.is_correct)
        for steps, end in zip(cuts, outcome.ends, strict=True):
            tallies = [below[prefix] for prefix in accumulate(steps)]
            labels = tuple(
                tally_label(sum(step_outcomes), len(step_outcomes), config.step_value)
                for step_outcomes in tallies[:-1]
            )
            yield LabelledSolution(
                outcome.problem.id,
                outcome.problem.question,
                steps,
                (*labels, final_label(end.is_correct)),
                end.is_correct,
            )


@dataclass(frozen=True)
class Judged:
    """Step scores of solutions, and the results of picking by them."""

    solved: Sequence[Solved]
    cut: str
    arrays: dict[str, Any]

    def accuracy(self, select: str, aggregate: str | None, n: int) -> Floats:
        """One entry per problem."""
        found: Floats = self.arrays[_name(select, aggregate, n)]
        return found

    def step_scores(self) -> Iterator[tuple[Solved, list[Floats]]]:
        """Return the step scores of each solution, per problem."""
        flat, start = self.arrays["scores"], 0
        for item in self.solved:
            scores = []
            for attempt in item.attempts:
                end = start + len(attempt.steps[self.cut])
                scores.append(flat[start:end])
                start = end
            yield item, scores


def score(prm: Scorer, solved: Sequence[Solved], cut: str) -> list[list[list[float]]]:
    """Return one score per step, per problem and solution; equal solutions are scored once."""
    found: list[list[list[float]]] = []
    for start in range(0, len(solved), PROBLEMS_AT_A_TIME):
        chunk = solved[start : start + PROBLEMS_AT_A_TIME]
        pairs = list(
            dict.fromkeys((item.question, attempt.steps[cut]) for item in chunk for attempt in item.attempts)
        )
        scores = dict(
            zip(
                pairs,
                prm.score([question for question, _ in pairs], [steps for _, steps in pairs]),
                strict=True,
            )
        )
        found += [[scores[item.question, attempt.steps[cut]] for attempt in item.attempts] for item in chunk]
    return found


def sizes_to(num: int) -> list[int]:
    """Return the N of the curves."""
    return [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= num]


def plain(solved: Sequence[Solved], num: int, is_exchangeable: bool) -> dict[str, Floats]:
    """Return what needs no PRM, per problem: votes, oracle, tokens."""
    attempts = [
        Attempts(item.problem_id, tuple(attempt.solution for attempt in item.attempts[:num]))
        for item in solved
    ]
    points = curve(attempts, sizes_to(num), is_exchangeable)
    found = {_name(point.select, point.aggregate, point.n): point.accuracy_P for point in points}
    found |= {f"tokens|{point.n}": point.tokens_P for point in points}
    paths = [[attempt.num_path_tokens for attempt in item.attempts[:num]] for item in solved]
    found |= {
        f"path_tokens|{n}": np.array([sum(lengths[:n]) for lengths in paths], dtype=float)
        for n in sizes_to(num)
    }
    return found


def _arrays(
    solved: Sequence[Solved], scores: list[list[list[float]]], is_exchangeable: bool, num: int
) -> dict[str, Any]:
    attempts = [
        Attempts(
            item.problem_id,
            tuple(attempt.solution for attempt in item.attempts),
            tuple(tuple(steps) for steps in problem_scores),
        )
        for item, problem_scores in zip(solved, scores, strict=True)
    ]
    found: dict[str, Any] = {
        _name(point.select, point.aggregate, point.n): point.accuracy_P
        for point in curve(attempts, sizes_to(num), is_exchangeable)
        if point.aggregate
    }
    flat = [value for problem_scores in scores for steps in problem_scores for value in steps]
    return {**found, "scores": np.array(flat, dtype=np.float32)}


def _name(select: str, aggregate: str | None, n: int) -> str:
    return f"{select}|{aggregate or ''}|{n}"
