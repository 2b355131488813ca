"""The tokens that a command line computes, from its arguments and the means of its problems.

Invariant: a command that samples, scores or trains and is not known here is refused, not counted as nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from forkpoint.evaluation.run import EvaluateConfig
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.labels.plan import Plan
from forkpoint.labels.run import PLANS
from forkpoint.labels.values import PlanName, product_named
from forkpoint.planner.pilot import Pilot
from forkpoint.planner.volume import (
    Labelling,
    ProblemSet,
    evaluate_cost,
    fine_tuned_tokens,
    labelling,
    raft_cost,
    read_tokens,
    trained_tokens,
)
from forkpoint.policies.config import PolicyConfig
from forkpoint.records import Cost
from forkpoint.runs.config import WorkersConfig
from forkpoint.training.config import SFTConfig, TrainConfig
from forkpoint.trees.grow import TreeConfig

Arguments = Mapping[str, Any]
"""The arguments of a command's function by name, defaults included."""
FREE = ("relabel", "report", "convert", "export", "push", "grade")
"""Commands that neither sample nor train nor score."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that a stage makes: of which problems, and of how many solutions per problem."""

    problems: ProblemSet
    num_solutions: float
    is_tree: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """What a stage computes, whatever hardware it runs on."""

    sampled: Cost = field(default_factory=Cost)
    """Cost of sampling from the policy."""
    read_tokens: int = 0
    """Tokens that the PRM reads."""
    trained_tokens: int = 0
    """Tokens that are trained on, in all epochs."""
    trains: Literal["policy", "prm"] = "prm"
    training: TrainConfig | SFTConfig | None = None
    replica_size: int | None = None
    """GPUs that the command splits the policy over; None if a server samples, which decides."""
    sampling_gpus: int | None = None
    """GPUs that the command samples on; None if a server samples."""
    is_measured: bool = False
    """Whether what is sampled was scaled up from a pilot."""


class Planner:
    """Goes through the command lines of an experiment in order, and remembers which labels they make."""

    def __init__(self) -> None:
        self._labels: dict[Path, Labels] = {}

    def workload(
        self, command: str, arguments: Arguments, problems: Sequence[ProblemSet], pilot: Pilot | None = None
    ) -> Workload:
        """What `forkpoint COMMAND` computes.

        ValueError if the command is not known here, or if the pilot did something else.
        """
        num_needed = {"label": 1, "evaluate": 1, "raft": 2}.get(command, 0)
        if len(problems) != num_needed:
            raise ValueError(
                f"{command} is planned with {num_needed} problem sets; {len(problems)} were given"
            )
        if pilot is not None and command not in ("label", "evaluate"):
            raise ValueError(f"a pilot is for a stage of label or evaluate; this one is of {command}")
        if command == "label":
            return self._label(arguments, problems[0], pilot)
        if command == "relabel":
            for path in _relabelled(arguments):
                self._labels[path] = self._labels_at(arguments["run"])
        if command in FREE:
            return Workload()
        if command == "train":
            return self._train(arguments)
        if command == "evaluate":
            return _evaluate(arguments, problems[0], pilot)
        if command == "raft":
            return _raft(arguments, *problems)
        raise ValueError(
            f"there is no plan of {command}; there is one of label, train, evaluate, raft, {', '.join(FREE)}"
        )

    def _label(self, arguments: Arguments, problems: ProblemSet, pilot: Pilot | None) -> Workload:
        tree: TreeConfig = arguments["tree"]
        plan = _plan(arguments)
        problems = _with_means(problems, pilot)
        labelled = labelling(problems, plan, tree.num_leaves)
        if pilot is not None:
            settings = plan.identity(arguments["labels"], tree.rule)
            if plan.grows_trees:
                settings["tree"] = _calibrated(tree, pilot)
            settings.pop("rule", None)  # tau may have been calibrated
            pilot.check(_plain(settings), labelled.num_rollouts)
            labelled = Labelling(pilot.scaled_cost(problems.num_problems), pilot.solutions_per_problem)
        self._labels[arguments["out"]] = Labels(problems, labelled.num_solutions, plan.grows_trees)
        num_read = 0
        if arguments["prm"]:
            num_read = read_tokens(problems, labelled.num_solutions, plan.grows_trees, is_packed=False)
        workload = Workload(sampled=labelled.cost, read_tokens=num_read, is_measured=pilot is not None)
        return _placed(workload, arguments)

    def _train(self, arguments: Arguments) -> Workload:
        config: TrainConfig = arguments["config"]
        labels = self._labels_at(arguments["labels"])
        tokens = trained_tokens(labels.problems, labels.num_solutions, labels.is_tree, config)
        return Workload(trained_tokens=tokens, training=config)

    def _labels_at(self, path: Path) -> Labels:
        if path not in self._labels:
            raise ValueError(
                f"no stage before makes the labels {path}; "
                f"there are {', '.join(map(str, self._labels)) or 'none'}"
            )
        return self._labels[path]


def _plan(arguments: Arguments) -> Plan[Any]:
    """The plan that `forkpoint label` follows with these arguments."""
    name: PlanName = product_named(arguments["method"]).plan if arguments["method"] else arguments["plan"]
    plan: Plan[Any] = arguments.get(name, PLANS[name])
    return plan


def _relabelled(arguments: Arguments) -> list[Path]:
    out: Path | None = arguments["out"]
    if out is None:
        return []
    values = [
        replace(arguments["labels"], value=value, eta=None).canonical_value for value in arguments["values"]
    ]
    return [out / f"{value.replace(':', '-')}.jsonl" for value in values] or [out]


def _evaluate(arguments: Arguments, problems: ProblemSet, pilot: Pilot | None) -> Workload:
    config: EvaluateConfig = arguments["config"]
    if arguments["labels"] is not None:
        raise ValueError(
            "there is no plan of label quality; "
            "leave --labels out of the recipe, and give it in a command of its own"
        )
    tree = replace(arguments["tree"], num_leaves=config.num_samples, max_tokens=config.max_tokens)
    problems = _with_means(problems, pilot)
    cost, num = evaluate_cost(problems, config), config.num_samples
    if pilot is not None:
        pilot.check(_plain({"evaluate": asdict(config), "tree": asdict(tree)}))
        cost = pilot.scaled_cost(problems.num_problems)
    num_read = (
        read_tokens(problems, 1, False)
        + len(config.temperatures) * read_tokens(problems, num, False)
        + read_tokens(problems, num, True)
    )
    return _placed(
        Workload(
            sampled=cost, read_tokens=num_read if arguments["prm"] else 0, is_measured=pilot is not None
        ),
        arguments,
    )


def _raft(arguments: Arguments, problems: ProblemSet, eval_problems: ProblemSet) -> Workload:
    config: RaftConfig = arguments["config"]
    prompts = replace(problems, num_problems=config.num_prompts or problems.num_problems)
    workload = Workload(
        sampled=raft_cost(prompts, eval_problems, config),
        read_tokens=config.num_iterations * read_tokens(prompts, config.num_samples, False)
        if arguments["prm"]
        else 0,
        trained_tokens=fine_tuned_tokens(prompts, config),
        trains="policy",
        training=config.sft,
    )
    return _placed(workload, arguments)


def _placed(workload: Workload, arguments: Arguments) -> Workload:
    """The workload with the GPUs that the policy is split over and samples on.

    These are the GPUs of Ray's workers, of this process, or of a server.
    """
    policy: PolicyConfig = arguments.get("policy", PolicyConfig())
    workers: WorkersConfig = arguments.get("workers", WorkersConfig())
    if policy.engine == "openai":
        return workload
    num_gpus = round(workers.workers * workers.gpus_per_worker) if workers.ray else policy.tensor_parallel
    return replace(workload, replica_size=policy.tensor_parallel, sampling_gpus=max(1, num_gpus))


def _with_means(problems: ProblemSet, pilot: Pilot | None) -> ProblemSet:
    """The same number of problems, with the pilot's means."""
    if pilot is None or pilot.means is None:
        return problems
    return replace(pilot.means, num_problems=problems.num_problems)


def _calibrated(tree: TreeConfig, pilot: Pilot) -> dict[str, Any]:
    """The tree as a run records it; a tau that is calibrated is taken from the pilot."""
    if tree.anchors_per_solution is not None:
        tree = tree.with_tau(pilot.settings.get("tree", {}).get("tau", tree.tau))
    return asdict(tree)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a run's configuration has them: JSON, in which tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain
