"""RAFT: a policy is repeatedly fine-tuned on its own best solutions (rejection sampling, arXiv 2412.11006).

Iteration t of T: sample completions of every prompt with the current policy, keep one per prompt, fine-tune
the current policy on the kept ones, measure the new policy. Iteration 0 is the base, measured on the same
problems.

    config.json, lock, journal.jsonl, manifest.json    the run: one row per finished stage
    raft.json                                          the results so far
    iter-T/samples/      a run of graded samples and their step scores
    iter-T/kept.jsonl    the completions that the new policy learned from
    iter-T/policy/       the new policy, a model directory that any tool can load
    iter-T/evaluate/     a run of solutions of the evaluation problems (iter-0 has only this one)

Invariant: a stage is done when its row is in the run's journal, which is written after all files of the
stage; killed at any moment and started again with the same configuration, a run comes to the same files (on
one machine, with the same number of threads and chunk size). This file loads no torch; the training loop is
in `forkpoint.training.sft`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.estimates import bootstrap
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.raft_inputs import RaftInputs
from forkpoint.experiments.raft_keep import KEPT, Keeper, Kept, read_kept
from forkpoint.experiments.raft_report import IterationReport, RaftReport
from forkpoint.policies import checkpoint_of
from forkpoint.policies.context import fits_context
from forkpoint.records import Policy
from forkpoint.runs import Run, complete
from forkpoint.runs.durable import replace_file
from forkpoint.runs.work import Executor
from forkpoint.solutions.outcomes import SampleOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.scoring import candidate_work
from forkpoint.solutions.work import SampleWork
from forkpoint.training.config import SFTReport

RESULTS_VERSION = 1
RESULTS, POLICY = "raft.json", "policy"


def raft(
    inputs: RaftInputs,
    out: Path,
    config: RaftConfig,
    executor: Executor,
    *,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> RaftReport:
    """Improve the policy `inputs.base` on `inputs.problems`; journaled at `out`, run again to continue.

    `on_stage` is called with the name of each stage that begins, `on_step` with (steps done, steps in all,
    last loss) of a fine-tuning.
    ValueError if the inputs and the configuration do not fit together or an iteration has nothing to keep,
    LayoutError if the PRM cannot read the policy's text, ConfigDiffers if `out` was started with another
    configuration, RuntimeError if problems failed.
    """
    inputs.check(config)
    policy = inputs.load(inputs.base)
    inputs.check_policy(policy, config.max_tokens)
    with Run.open(out, "raft", {**inputs.identity(policy), "raft": asdict(config)}) as run:
        stages = Stages(run, inputs, config, executor, on_stage, on_step, loaded=(0, policy))
        del policy  # the stages free its memory before they train
        stages.evaluate(0)
        for iteration in range(1, config.num_iterations + 1):
            stages.keep(iteration)
            stages.tune(iteration)
            stages.evaluate(iteration)
        report = stages.report()
        run.finish({"num_iterations": config.num_iterations})
    return report


@dataclass
class Stages:
    """The stages of a RAFT run; a journaled stage is not repeated."""

    run: Run
    inputs: RaftInputs
    config: RaftConfig
    executor: Executor
    on_stage: Callable[[str], None]
    on_step: Callable[[int, int, float], None] | None
    loaded: tuple[int, Policy] | None
    """The policy in memory and the iteration that made it."""

    def evaluate(self, iteration: int) -> None:
        """Journal the accuracies of every evaluation problem: greedy, and the mean of its samples."""
        key = f"{iteration}/evaluation"
        if key not in self.run:
            self.on_stage(f"iteration {iteration}: evaluate")
            self.run.append([(key, {"kind": "evaluation", **self._accuracies(iteration)})])
        self._write_results()

    def keep(self, iteration: int) -> None:
        """Sample with the policy of the iteration before, score the samples, and write the kept ones."""
        key = f"{iteration}/kept"
        if key in self.run:
            return
        self.on_stage(f"iteration {iteration}: sample")
        config, policy, directory = self.config, self._policy(iteration - 1), self._directory(iteration)
        prompts = config.prompts(self.inputs.problems, iteration)
        fitting = [problem for problem in prompts if fits_context(policy, problem)]
        if not fitting:
            raise ValueError(
                f"iteration {iteration} has no prompt that fits the policy's context of "
                f"{policy.max_length} tokens"
            )
        seed = stage_seed(config.seed, iteration, "samples")
        work = SampleWork(policy, fitting, self._rollouts(config.num_samples, seed))
        with Run.open(directory / "samples", "raft samples", {"policy": policy.name}) as run:
            complete(run, self.executor, work)
            keeper = Keeper(config, iteration)
            scores: Iterator[list[list[float] | None] | None] = iter([None] * len(fitting))
            if self.inputs.prm is not None:
                self.on_stage(f"iteration {iteration}: score")
                score_work = candidate_work(self.inputs.prm, self.inputs.prm_format, run, work.keys)
                complete(run, self.executor, score_work)
                scores = (row["scores"] for row in run.rows(score_work.keys))
            outcomes = (SampleOutcome.from_row(row) for row in run.rows(work.keys))
            replace_file(directory / KEPT, keeper.lines(policy, outcomes, scores))
            kept = keeper.kept(len(prompts))
            run.finish(asdict(kept))
        if kept.num_kept == 0:
            raise ValueError(
                f"iteration {iteration} has nothing to learn from: {kept}; "
                "sample more or longer, or give other problems"
            )
        self.run.append([(key, {"kind": "kept", **asdict(kept)})])

    def tune(self, iteration: int) -> None:
        """Fine-tune the policy of the iteration before on the kept completions."""
        key = f"{iteration}/training"
        if key in self.run:
            return
        self.on_stage(f"iteration {iteration}: fine-tune")
        from forkpoint.training.sft import fine_tune

        self.loaded = None
        directory, config = self._directory(iteration), self.config
        report = fine_tune(
            read_kept(directory / KEPT),
            checkpoint_of(self._path(iteration - 1)),
            directory / POLICY,
            replace(config.sft, learning_rate=config.learning_rate(iteration)),
            stage_seed(config.seed, iteration, "sft"),
            self.on_step,
        )
        self.run.append([(key, {"kind": "training", **asdict(report)})])

    def report(self) -> RaftReport:
        """The results of the journaled stages, up to the last iteration that was evaluated."""
        iterations: list[IterationReport] = []
        while f"{len(iterations)}/evaluation" in self.run:
            iterations.append(self._report(len(iterations)))
        return RaftReport(tuple(iterations))

    def _accuracies(self, iteration: int) -> dict[str, list[float]]:
        """Accuracy per evaluation problem, by `greedy` and `sampled`."""
        policy, config = self._policy(iteration), self.config
        greedy = RolloutConfig(1, 0.0, max_tokens=config.max_tokens, seed=config.seed)
        # the seed is the same in every iteration: what differs is the policy
        sampled = self._rollouts(config.num_eval_samples, config.seed)
        accuracies = {}
        with Run.open(
            self._directory(iteration) / "evaluate", "raft evaluate", {"policy": policy.name}
        ) as run:
            for name, rollouts in (("greedy", greedy), ("sampled", sampled)):
                work = SampleWork(policy, self.inputs.eval_problems, rollouts)
                complete(run, self.executor, work)
                outcomes = (SampleOutcome.from_row(row) for row in run.rows(work.keys))
                accuracies[name] = [
                    float(np.mean([end.is_correct for end in outcome.ends])) for outcome in outcomes
                ]
            run.finish({"num_problems": len(self.inputs.eval_problems)})
        return accuracies

    def _report(self, iteration: int) -> IterationReport:
        base, own = self._row("0/evaluation"), self._row(f"{iteration}/evaluation")
        greedy, sampled = bootstrap(own["greedy"]), bootstrap(own["sampled"])
        if iteration == 0:
            return IterationReport(0, self.inputs.base, None, None, None, greedy, sampled, None, None)
        return IterationReport(
            iteration,
            f"iter-{iteration}/{POLICY}",
            Kept(**self._row(f"{iteration}/kept")),
            self.config.learning_rate(iteration),
            SFTReport(**self._row(f"{iteration}/training")),
            greedy,
            sampled,
            bootstrap(np.subtract(own["greedy"], base["greedy"])),
            bootstrap(np.subtract(own["sampled"], base["sampled"])),
        )

    def _write_results(self) -> None:
        rows = [item.to_row() for item in self.report().iterations]
        results = {"version": RESULTS_VERSION, "config": self.run.config, "iterations": rows}
        replace_file(
            self.run.directory / RESULTS,
            [(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()],
        )

    def _row(self, key: str) -> dict[str, Any]:
        row = next(self.run.rows([key]))
        del row["kind"]
        return row

    def _rollouts(self, num_samples: int, seed: int) -> RolloutConfig:
        return RolloutConfig(
            num_samples, self.config.temperature, self.config.top_p, self.config.max_tokens, seed
        )

    def _policy(self, iteration: int) -> Policy:
        """The policy after an iteration; another one is freed first, because two may not fit the memory."""
        if self.loaded is None or self.loaded[0] != iteration:
            self.loaded = None
            self.loaded = (iteration, self.inputs.load(self._path(iteration)))
        return self.loaded[1]

    def _path(self, iteration: int) -> str:
        return str(self._directory(iteration) / POLICY) if iteration else self.inputs.base

    def _directory(self, iteration: int) -> Path:
        directory = self.run.directory / f"iter-{iteration}"
        directory.mkdir(exist_ok=True)
        return directory


def stage_seed(seed: int, iteration: int, stage: str) -> int:
    """A 31-bit seed that differs between iterations and stages."""
    digest = hashlib.blake2b(f"{seed}/{iteration}/{stage}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
