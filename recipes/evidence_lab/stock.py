"""The material shared by all arms of a setting: label runs, solutions of test problems, and their costs.

    SETTING/stock/NAME/           runs: labels of a kind, or solutions
    SETTING/stock/NAME.jsonl      these solutions as the arms read them: texts, steps, verdicts, first errors

Invariant: everything here is made once, by the process that needs it first; other processes wait. Nothing
depends on a training seed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from forkpoint.errors import RunLocked
from forkpoint.lab.oracle import first_error, step_at
from forkpoint.lab.problem_set import lab_story
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan, anchor_rule, tree_outcomes
from forkpoint.labels.leaves import leaf_shares
from forkpoint.labels.omega_records import BisectConfig
from forkpoint.labels.plan import Plan, Sampling
from forkpoint.labels.rollout_store import RolloutStore
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.policies import load_policy
from forkpoint.problems import load_problems
from forkpoint.records import Policy, Problem, Solution
from forkpoint.runs import LocalExecutor, Run, complete
from forkpoint.runs.durable import replace_file
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.work import SampleWork, TreeWork, outcome_of
from forkpoint.steps import AnchorRule
from forkpoint.trees.grow import TreeConfig

from .cuts import CUTS, steps_of
from .settings import LABEL_TAU, MAX_TOKENS, Scale, Setting

T = TypeVar("T")
RULE = AnchorRule(tau=LABEL_TAU)
OMEGA_SEARCHES = 8
"""Largest number per problem."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A solution of a test problem, with what the arms need."""

    text: str
    answer: str | None
    is_correct: bool
    num_tokens: int
    """Tokens sampled for this solution; a shared prefix counts for the first solution that has it."""
    num_path_tokens: int
    """Tokens of the whole solution."""
    steps: dict[str, tuple[str, ...]]
    """Steps for each cut."""
    error_offset: int | None
    """The character at which the oracle finds the first error; None if every step is right."""

    @property
    def solution(self) -> Solution:
        return Solution(self.text, (), (), self.answer, self.is_correct, self.num_tokens)

    def first_wrong_step(self, cut: str) -> int:
        """Return the first wrong step; -1 if every step is right."""
        return -1 if self.error_offset is None else step_at(self.error_offset, self.steps[cut])


@dataclass(frozen=True, slots=True)
class Solved:
    """A test problem and its solutions."""

    problem_id: str
    question: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class LabelCost:
    """The cost of a label run in sampled tokens per problem."""

    solutions: float
    rollouts: float
    num_rollouts: int
    """The cost per prefix, if prefixes were rolled out."""
    without_reuse: float
    """The cost if every leaf had been sampled from the prompt on; the same if nothing is shared."""

    def per_problem(self, num_rollouts: int | None) -> float:
        """Return the cost with fewer completions per prefix."""
        return self.solutions + self.rollouts * (num_rollouts / self.num_rollouts if num_rollouts else 1.0)


def sum_costs(costs: Sequence[LabelCost]) -> LabelCost:
    """Return the cost of labels that are used together."""
    num_rollouts = max(cost.num_rollouts for cost in costs)
    return LabelCost(
        sum(cost.solutions for cost in costs),
        sum(cost.rollouts for cost in costs),
        num_rollouts,
        sum(cost.without_reuse for cost in costs),
    )


def patiently(work: Callable[[], T]) -> T:
    """Return the result of `work` when no other process holds its run."""
    while True:
        try:
            return work()
        except RunLocked:
            time.sleep(3)


class Stock:
    """The shared material of one setting."""

    def __init__(self, setting: Setting, scale: Scale, out: Path) -> None:
        self.setting, self.scale = setting, scale
        self.directory = out / setting.name / "stock"
        self._executor = LocalExecutor(chunk_size=32)

    @property
    def policy(self) -> Policy:
        return _policy(self.setting.policy)

    def train_problems(self, source: str) -> list[Problem]:
        return load_problems(
            self.setting.problems("train", self.scale.num_edu if source == "edu" else self.scale.num_train)
        )

    def labels(self, source: str) -> Path:
        """Return the label run of a source (see `variants.Variant`); it is made if it is missing.

        The samples are those that are rolled out.
        """
        source = "rollouts" if source == "samples" else source
        directory = self.directory / f"labels-{source}"
        if not (directory / "cost.json").exists():
            patiently(lambda: self._label(source, directory))
        return directory

    def _label(self, source: str, directory: Path) -> None:
        scale, problems = self.scale, self.train_problems(source)
        leaves = scale.num_solutions if source == "tree-rollouts" else scale.num_label_leaves
        tree = TreeConfig(num_leaves=leaves, tau=LABEL_TAU, max_tokens=MAX_TOKENS)
        plans: dict[str, Plan[Any]] = {
            "edu": LeafPlan(),
            "rollouts": RolloutPlan(num_solutions=scale.num_solutions, num_rollouts=scale.num_rollouts),
            "more-rollouts": RolloutPlan(
                num_solutions=scale.num_solutions, num_rollouts=2 * scale.num_rollouts
            ),
            "tree-rollouts": RolloutPlan(source="tree", num_rollouts=scale.num_rollouts // 2),
            "omega": BisectPlan(BisectConfig(num_rollouts=8, max_searches=OMEGA_SEARCHES)),
        }
        plan = plans[source]
        if source == "more-rollouts" and not directory.exists():
            # a run with a larger number of completions samples only the missing ones
            copy = Path(tempfile.mkdtemp(prefix="copy-", dir=self.directory))
            ignored = shutil.ignore_patterns("cost.json", "lock")
            shutil.copytree(self.labels("rollouts"), copy, ignore=ignored, dirs_exist_ok=True)
            try:
                copy.rename(directory)
            except OSError:  # another process made it first
                shutil.rmtree(copy)
        label_problems(problems, self.policy, directory, tree, LabelConfig(), self._executor, Sampling(plan))
        with Run.read(directory) as run:
            outcomes = [outcome_of(row) for row in run.rows() if row["kind"] in ("tree", "samples")]
            rollouts = RolloutStore(run).cost.sampled_tokens
        sampled = sum(outcome.cost.sampled_tokens for outcome in outcomes)
        paths = sum(
            len(outcome.path(idx).completion) for outcome in outcomes for idx in range(len(outcome.ends))
        )
        num_rollouts = plan.num_rollouts if isinstance(plan, RolloutPlan) else 0
        cost = LabelCost(
            sampled / len(problems),
            rollouts / len(problems),
            num_rollouts,
            (paths + rollouts) / len(problems),
        )
        write_json(directory / "cost.json", asdict(cost))

    def label_cost(self, source: str) -> LabelCost:
        """Return the cost of a source; sources joined by a plus cost the sum."""
        if "+" in source:
            return sum_costs([self.label_cost(name) for name in source.split("+")])
        cost = LabelCost(**json.loads((self.labels(source) / "cost.json").read_text()))
        return LabelCost(cost.solutions, 0.0, 0, cost.solutions) if source == "samples" else cost

    def random_rate(self) -> float:
        """Return the share of tokens in labelled trees that are anchors.

        The same share of random cuts is made.
        """
        path = self.directory / "random_rate.json"
        if not path.exists():
            with Run.read(self.labels("edu")) as run:
                rule = anchor_rule(run)
                trees = [outcome for outcome, _ in zip(tree_outcomes(run), range(100), strict=False)]
            paths = [outcome.path(idx) for outcome in trees for idx in range(len(outcome.ends))]
            num_cuts = sum(len(path.steps("entropy", rule)[0]) - 1 for path in paths)
            write_json(path, num_cuts / sum(len(path.completion) for path in paths))
        rate: float = json.loads(path.read_text())
        return rate

    def solutions(self, name: str) -> list[Solved]:
        """Return solutions by name: SPLIT-ht-TEMPERATURE or SPLIT-tree-TAU."""
        path = self.directory / f"{name}.jsonl"
        if not path.exists():
            patiently(lambda: self._solve(name, path))
        return _read_solved(path)

    def leaf_shares(self, name: str, num: int) -> list[list[float]]:
        """Return the policy's shares of the leaves of each problem's tree of `num` leaves.

        See `labels.leaf_shares`.
        """
        path = self.directory / f"{name}-shares-{num}.json"
        if not path.exists():
            solved = self.solutions(name)
            with Run.read(self.directory / name) as run:
                shares = {
                    outcome.problem.id: leaf_shares(outcome.tree, num) for outcome in tree_outcomes(run)
                }
            write_json(path, [shares[item.problem_id] for item in solved])
        found: list[list[float]] = json.loads(path.read_text())
        return found

    def num_solutions(self, name: str) -> int:
        """Return the number of samples per problem; for trees, the largest number of leaves."""
        split, kind, number = name.split("-")
        is_wide = self.setting.is_first and split == "test" and (kind == "tree" or number == "0.7")
        if not is_wide:
            return self.scale.num_other_samples
        return self.scale.num_leaves if kind == "tree" else self.scale.num_samples

    def _solve(self, name: str, path: Path) -> None:
        split, kind, number = name.split("-")
        scale = self.scale
        problems = load_problems(
            self.setting.problems(split, scale.num_test if split == "test" else scale.num_valid)
        )
        num = self.num_solutions(name)
        work: SampleWork | TreeWork
        if kind == "ht":
            work = SampleWork(self.policy, problems, RolloutConfig(num, float(number), max_tokens=MAX_TOKENS))
        else:
            work = TreeWork(
                self.policy, problems, TreeConfig(num_leaves=num, tau=float(number), max_tokens=MAX_TOKENS)
            )
        with Run.open(
            self.directory / name,
            "solutions",
            {"name": name, "num": num, "policy": self.policy.name, "problems": len(problems)},
        ) as run:
            complete(run, self._executor, work)
            rate = self.random_rate()
            replace_file(
                path,
                (json.dumps(_row(outcome_of(row), rate)).encode() + b"\n" for row in run.rows(work.keys)),
            )
            run.finish({})


def _row(outcome: TreeOutcome | SampleOutcome, random_rate: float) -> dict[str, Any]:
    story = lab_story(outcome.problem.id)
    attempts = []
    for idx, solution in enumerate(outcome.solutions()):
        path = outcome.path(idx)
        error = first_error(story, path.text)
        attempts.append(
            {
                "text": path.text,
                "answer": solution.answer,
                "is_correct": solution.is_correct,
                "num_tokens": solution.num_sampled_tokens,
                "num_path_tokens": len(path.completion),
                "steps": {cut: steps_of(path, cut, RULE, random_rate)[0] for cut in CUTS},
                "error_offset": error.offset if error else None,
            }
        )
    return {"problem_id": outcome.problem.id, "question": outcome.problem.question, "attempts": attempts}


def _solved(lines: Sequence[bytes]) -> Iterator[Solved]:
    for line in lines:
        row = json.loads(line)
        attempts = [
            Attempt(**{**item, "steps": {cut: tuple(steps) for cut, steps in item["steps"].items()}})
            for item in row["attempts"]
        ]
        yield Solved(row["problem_id"], row["question"], tuple(attempts))


@cache
def _read_solved(path: Path) -> list[Solved]:
    return list(_solved(path.read_bytes().splitlines()))


@cache
def _policy(name: str) -> Policy:
    return load_policy(name)


def write_json(path: Path, value: Any) -> None:
    """Replace the file atomically, and make its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [json.dumps(value).encode()])
