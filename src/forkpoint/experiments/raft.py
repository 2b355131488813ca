"""RAFT: a policy fine-tuned on its own best solutions, again and again (arXiv 2412.11006, rejection sampling by a PRM).

Iteration t of T: sample completions of every prompt with the current policy, keep one per prompt, fine-tune the current
policy on the kept ones, measure the new policy. Iteration 0 is the base, measured on the same problems.

    config.json, lock, journal.jsonl, manifest.json    the run: one row per finished stage
    raft.json                                          the results so far
    iter-T/samples/      a run of samples, graded, and their step scores
    iter-T/kept.jsonl    what the new policy learned from
    iter-T/policy/       the new policy, any tool's model directory
    iter-T/evaluate/     a run of greedy and sampled solutions of the evaluation problems (iter-0 has only this one)

Invariant: a stage is done when its row is in the run's journal, which is written after all that it made; killed at any
moment and started again with the same configuration, the same files come out (on one machine, with the same number of
threads and chunk size). This file loads no torch; the training loop is in `forkpoint.training.sft`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.content_key import content_key
from forkpoint.errors import LayoutError
from forkpoint.estimates import Estimate, bootstrap
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.raft_keep import KEPT, Keeper, Kept, read_kept
from forkpoint.policies import checkpoint_of, load_policy
from forkpoint.policies.context import fits_context, room_after
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Policy, Problem, Request, Scorer
from forkpoint.runs import Run, complete
from forkpoint.runs.durable import replace_file
from forkpoint.runs.work import Executor
from forkpoint.solutions.outcomes import SampleOutcome, paths_of
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.scoring import candidate_work
from forkpoint.solutions.work import SampleWork
from forkpoint.training.config import SFTReport

RESULTS_VERSION = 1
RESULTS, POLICY = "raft.json", "policy"


@dataclass(frozen=True, slots=True)
class IterationReport:
    """What an iteration came to; iteration 0 is the base, and has no training and no gain."""

    iteration: int
    policy: str
    """The policy's directory in the run's; for iteration 0, the base as it was given."""
    kept: Kept | None
    learning_rate: float | None
    training: SFTReport | None
    greedy: Estimate
    """Accuracy of the greedy solution."""
    sampled: Estimate
    """Accuracy of one sample."""
    greedy_gain: Estimate | None
    """Over the base, paired problem by problem."""
    sampled_gain: Estimate | None

    def to_row(self) -> dict[str, Any]:
        """The entry of raft.json; the same keys for every iteration."""
        kept = asdict(self.kept) if self.kept else dict.fromkeys(Kept.__dataclass_fields__)
        training = asdict(self.training) if self.training else dict.fromkeys(SFTReport.__dataclass_fields__)
        gains = {"greedy": self.greedy_gain, "sampled": self.sampled_gain}
        return {
            "iteration": self.iteration,
            "policy": self.policy,
            **kept,
            "learning_rate": self.learning_rate,
            "num_trained_tokens": training["num_tokens"],
            "first_loss": training["first_loss"],
            "loss": training["loss"],
            "greedy": _estimate_row(self.greedy, "accuracy"),
            "sampled": _estimate_row(self.sampled, "accuracy"),
            "gain_over_base": {
                name: _estimate_row(gain, "difference") for name, gain in gains.items() if gain
            }
            or None,
        }


@dataclass(frozen=True, slots=True)
class RaftReport:
    """The base and every iteration, in order."""

    iterations: tuple[IterationReport, ...]


def raft(
    problems: Sequence[Problem],
    eval_problems: Sequence[Problem],
    base: str,
    out: Path,
    config: RaftConfig,
    executor: Executor,
    prm: Scorer | None = None,
    prm_format: PRMFormat | None = None,
    *,
    load: Callable[[str], Policy] = load_policy,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> RaftReport:
    """Improve the policy `base` (`lab`, a model directory or a hub id) on `problems`, measure it on `eval_problems`; run again to continue.

    `prm` cuts solutions into steps as `prm_format` says. `load` loads the base and every new policy, for example
    `load_policy` with a template, a device or a batch size of one's own. `on_stage` is told what begins, `on_step` gets
    (steps done, steps in all, last loss) of a fine-tuning.
    ValueError where the arguments do not fit together or an iteration has nothing to keep, LayoutError where the PRM cannot
    read the policy's text, ConfigDiffers where `out` was started otherwise, RuntimeError where problems failed.
    """
    prm_format = prm_format or PRMFormat()
    _check_arguments(problems, eval_problems, config, prm)
    policy = load(base)
    _check_prompts(policy, problems, eval_problems)
    if prm is not None:
        check_prm(
            prm,
            prm_format,
            policy,
            next(item for item in problems if fits_context(policy, item)),
            config.max_tokens,
        )
    resolved = {
        "base": policy.name,
        "scorer": prm.name if prm else None,
        "prm_format": asdict(prm_format) if prm else None,
        "raft": asdict(config),
        "problems": content_key([asdict(problem) for problem in problems]),
        "num_problems": len(problems),
        "eval_problems": content_key([asdict(problem) for problem in eval_problems]),
        "num_eval_problems": len(eval_problems),
    }
    with Run.open(out, "raft", resolved) as run:
        stages = Stages(
            run,
            problems,
            eval_problems,
            base,
            config,
            executor,
            prm,
            prm_format,
            load,
            on_stage,
            on_step,
            loaded=(0, policy),
        )
        del policy  # the stages give its memory back before they train
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
    """The stages of a RAFT run; one that is journaled is not done again."""

    run: Run
    problems: Sequence[Problem]
    eval_problems: Sequence[Problem]
    base: str
    config: RaftConfig
    executor: Executor
    prm: Scorer | None
    prm_format: PRMFormat
    load: Callable[[str], Policy]
    on_stage: Callable[[str], None]
    on_step: Callable[[int, int, float], None] | None
    loaded: tuple[int, Policy] | None
    """The policy in memory and the iteration that made it."""

    def evaluate(self, iteration: int) -> None:
        """Journal every evaluation problem's accuracy: of the greedy solution, and the mean of its samples."""
        key = f"{iteration}/evaluation"
        if key not in self.run:
            self.on_stage(f"iteration {iteration}: evaluate")
            policy, config = self._policy(iteration), self.config
            works = {
                "greedy": SampleWork(
                    policy,
                    self.eval_problems,
                    RolloutConfig(1, 0.0, max_tokens=config.max_tokens, seed=config.seed),
                ),
                # the same seed every time: what differs between iterations is the policy
                "sampled": SampleWork(
                    policy, self.eval_problems, self._rollouts(config.num_eval_samples, config.seed)
                ),
            }
            with Run.open(
                self._directory(iteration) / "evaluate", "raft evaluate", {"policy": policy.name}
            ) as run:
                accuracies = {}
                for name, work in works.items():
                    complete(run, self.executor, work)
                    outcomes = (SampleOutcome.from_row(row) for row in run.rows(work.keys))
                    accuracies[name] = [
                        float(np.mean([end.is_correct for end in outcome.ends])) for outcome in outcomes
                    ]
                run.finish({"num_problems": len(self.eval_problems)})
            self.run.append([(key, {"kind": "evaluation", **accuracies})])
        self._write_results()

    def keep(self, iteration: int) -> None:
        """Sample with the policy before, score, and write what is kept."""
        key = f"{iteration}/kept"
        if key in self.run:
            return
        self.on_stage(f"iteration {iteration}: sample")
        config, policy, directory = self.config, self._policy(iteration - 1), self._directory(iteration)
        prompts = config.prompts(self.problems, iteration)
        fitting = [problem for problem in prompts if fits_context(policy, problem)]
        if not fitting:
            raise ValueError(
                f"iteration {iteration} has no prompt that fits the policy's context of {policy.max_length} tokens"
            )
        work = SampleWork(
            policy, fitting, self._rollouts(config.num_samples, stage_seed(config.seed, iteration, "samples"))
        )
        with Run.open(directory / "samples", "raft samples", {"policy": policy.name}) as run:
            complete(run, self.executor, work)
            chooser = Keeper(config, iteration)
            scores: Iterator[list[list[float] | None] | None] = iter([None] * len(fitting))
            if self.prm is not None:
                self.on_stage(f"iteration {iteration}: score")
                score_work = candidate_work(self.prm, self.prm_format, run, work.keys)
                complete(run, self.executor, score_work)
                scores = (row["scores"] for row in run.rows(score_work.keys))
            outcomes = (SampleOutcome.from_row(row) for row in run.rows(work.keys))
            replace_file(directory / KEPT, chooser.lines(policy, outcomes, scores))
            kept = chooser.kept(len(prompts))
            run.finish(asdict(kept))
        if kept.num_kept == 0:
            raise ValueError(
                f"iteration {iteration} has nothing to learn from: {kept}; sample more or longer, or give other problems"
            )
        self.run.append([(key, {"kind": "kept", **asdict(kept)})])

    def tune(self, iteration: int) -> None:
        """Fine-tune the policy before on what was kept."""
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
        """What the journaled stages came to, up to the last iteration that was evaluated."""
        iterations: list[IterationReport] = []
        while f"{len(iterations)}/evaluation" in self.run:
            iterations.append(self._report(len(iterations)))
        return RaftReport(tuple(iterations))

    def _report(self, iteration: int) -> IterationReport:
        base, own = self._row("0/evaluation"), self._row(f"{iteration}/evaluation")
        greedy, sampled = bootstrap(own["greedy"]), bootstrap(own["sampled"])
        if iteration == 0:
            return IterationReport(0, self.base, None, None, None, greedy, sampled, None, None)
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
            [(json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode()],
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
        """The policy after an iteration; the one before it is let go first, two may be too many for the memory."""
        if self.loaded is None or self.loaded[0] != iteration:
            self.loaded = None
            self.loaded = (iteration, self.load(self._path(iteration)))
        return self.loaded[1]

    def _path(self, iteration: int) -> str:
        return str(self._directory(iteration) / POLICY) if iteration else self.base

    def _directory(self, iteration: int) -> Path:
        directory = self.run.directory / f"iter-{iteration}"
        directory.mkdir(exist_ok=True)
        return directory


def check_prm(prm: Scorer, prm_format: PRMFormat, policy: Policy, problem: Problem, max_tokens: int) -> None:
    """LayoutError unless the PRM can read the policy's greedy solution of `problem`, which is sampled here.

    The PRM's tokenizer must give the text back as it was, must find no step tag and no other special token in it, and the
    whole must fit the PRM's `max_length`. A scorer without `tokenizer` and `layout` cannot be checked, and is taken as it is.
    """
    tokenizer, layout = getattr(prm, "tokenizer", None), getattr(prm, "layout", None)
    if tokenizer is None or layout is None:
        return
    prompt_ids = policy.encode_question(problem.question)
    limit = room_after(policy, prompt_ids, max_tokens)
    path = paths_of(policy, policy.generate([Request(prompt_ids, limit)]))[0]
    prompt = prm_format.template.replace("{question}", problem.question)
    steps = path.steps(prm_format.segmentation, prm_format.rule)[0]
    reserved = {layout.tag_id, *tokenizer.all_special_ids}
    where = f"{prm.name} cannot read what {policy.name} says to problem {problem.id}"
    for piece in (prompt, *steps):
        ids = tokenizer.encode(piece, add_special_tokens=False)
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if back != piece:
            raise LayoutError(
                f"{where}: its tokenizer makes {back!r} of {piece!r}; use a PRM that was trained on such texts"
            )
        found = reserved.intersection(ids)
        if found:
            token = tokenizer.decode([min(found)])
            raise LayoutError(
                f"{where}: {piece!r} holds its special token {token!r}; scores would be read at the wrong places"
            )
    try:
        layout.encode(problem.question, steps)
    except LayoutError as error:
        raise LayoutError(f"{where}: {error}") from error


def stage_seed(seed: int, iteration: int, stage: str) -> int:
    """A 31-bit seed of a stage's own."""
    return (
        int.from_bytes(hashlib.blake2b(f"{seed}/{iteration}/{stage}".encode(), digest_size=4).digest(), "big")
        >> 1
    )


def _check_arguments(
    problems: Sequence[Problem], eval_problems: Sequence[Problem], config: RaftConfig, prm: Scorer | None
) -> None:
    if not problems or not eval_problems:
        raise ValueError(
            f"problems to learn from and to evaluate on are needed; {len(problems)} and {len(eval_problems)} were given"
        )
    if config.num_prompts > len(problems):
        raise ValueError(
            f"num_prompts {config.num_prompts} is more than the {len(problems)} problems; give 0 to take all of them"
        )
    if config.select == "prm" and prm is None:
        raise ValueError("select 'prm' needs a PRM; give one, or choose select 'outcome'")
    if config.select == "outcome" and prm is not None:
        raise ValueError(
            "select 'outcome' keeps right completions and asks no PRM; leave the PRM out, or choose select 'prm'"
        )
    questions = {problem.question for problem in problems}
    shared = [problem.id for problem in eval_problems if problem.question in questions]
    if shared:
        raise ValueError(
            f"{len(shared)} evaluation problems are also learned from (the first is {shared[0]}); leave them out on one side, "
            "accuracy on them says nothing about new problems"
        )


def _check_prompts(policy: Policy, problems: Sequence[Problem], eval_problems: Sequence[Problem]) -> None:
    num_long = sum(not fits_context(policy, problem) for problem in eval_problems)
    if num_long:
        raise ValueError(
            f"{num_long} evaluation prompts do not fit the policy's context of {policy.max_length} tokens; leave them out"
        )
    if not any(fits_context(policy, problem) for problem in problems):
        raise ValueError(f"no prompt fits the policy's context of {policy.max_length} tokens")


def _estimate_row(estimate: Estimate, name: str) -> dict[str, float]:
    return {
        name: estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "num_problems": estimate.num_problems,
    }
