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
threads and chunk size). This file loads no torch; the training loop is in `sft.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint.errors import LayoutError
from forkpoint.evaluate import Estimate, bootstrap
from forkpoint.outcomes import SampleOutcome, paths_of
from forkpoint.policies import checkpoint_of, load_policy
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Executor, Policy, Problem, Request, Scorer
from forkpoint.rollouts import RolloutConfig
from forkpoint.runs import Run, complete, content_key
from forkpoint.runs.durable import replace_file
from forkpoint.select import AGGREGATES, Aggregate, aggregate, best
from forkpoint.solve_run import SampleWork, fits_context

RESULTS_VERSION = 1
RESULTS, KEPT, POLICY = "raft.json", "kept.jsonl", "policy"


@dataclass(frozen=True)
class SFTConfig:
    """How a policy is fine-tuned on completions. The defaults are those of arXiv 2412.11006, for models of 1B parameters and above."""

    learning_rate: float = 5e-7
    """Peak; a cosine to 0 after the warm-up. RAFT scales it by (T - t + 1) / T in iteration t."""
    num_epochs: float = 2.0
    batch_size: int = 128
    """Completions per optimiser step."""
    micro_batch_size: int = 8
    """Completions per forward pass."""
    warmup_share: float = 0.0
    """Share of the steps, in [0, 1)."""
    weight_decay: float = 0.0
    lora_rank: int = 0
    """Rank of LoRA adapters, merged into the saved model; 0 trains all weights."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Modules that get adapters."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the weights while training and as saved; auto keeps the checkpoint's. bfloat16 rounds steps of 5e-7 away."""
    save_every: int = 200
    """Optimiser steps between checkpoints."""

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.num_epochs > 0):
            raise ValueError(f"learning_rate and num_epochs must be above 0; {self.learning_rate} and {self.num_epochs} were given")
        if min(self.batch_size, self.micro_batch_size, self.save_every) < 1:
            raise ValueError("batch_size, micro_batch_size and save_every must be at least 1")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}")
        if not 0 <= self.warmup_share < 1 or self.weight_decay < 0 or self.lora_rank < 0:
            raise ValueError("warmup_share must be in [0, 1), weight_decay and lora_rank at least 0")
        if self.dtype not in ("float32", "bfloat16", "auto"):
            raise ValueError(f"dtype {self.dtype!r} is unknown; choose from float32, bfloat16, auto")


@dataclass(frozen=True, slots=True)
class SFTRow:
    """A prompt and what the policy should say to it, in the policy's own tokens."""

    prompt_ids: tuple[int, ...]
    """At least one; not learned."""
    completion_ids: tuple[int, ...]
    """At least one, the end token included; learned."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError("a row needs at least one prompt token and one completion token")


@dataclass(frozen=True, slots=True)
class SFTReport:
    """What fine-tuning did."""

    num_rows: int
    num_tokens: int
    """Completion tokens, those that are learned."""
    first_loss: float
    """In nats per completion token, mean over the first tenth of the optimiser steps."""
    loss: float
    """The same over the last tenth."""


@dataclass(frozen=True)
class RaftConfig:
    """How a policy learns from its own solutions. The defaults are those of arXiv 2412.11006."""

    num_iterations: int = 3
    """T."""
    num_samples: int = 16
    """Completions per prompt, of which at most one is kept."""
    num_prompts: int = 0
    """Problems per iteration (20,000 in the paper): the next ones in their order, from the start again after the last; 0 takes all."""
    temperature: float = 1.0
    """Of the samples that are chosen from and of the sampled accuracy."""
    top_p: float = 1.0
    max_tokens: int = 512
    """Per completion; one that has not ended by then is never kept."""
    select: Literal["prm", "outcome"] = "prm"
    """What is kept of a prompt: the completion that the PRM scores best, right or wrong (prm), or any right one (outcome)."""
    aggregate: Aggregate = "min"
    """What makes one score of the steps'."""
    num_eval_samples: int = 4
    """Samples per evaluation problem, beside the greedy solution."""
    seed: int = 0
    sft: SFTConfig = field(default_factory=SFTConfig)

    def __post_init__(self) -> None:
        if min(self.num_iterations, self.num_samples, self.max_tokens, self.num_eval_samples) < 1:
            raise ValueError("num_iterations, num_samples, max_tokens and num_eval_samples must be at least 1")
        if self.num_prompts < 0:
            raise ValueError(f"num_prompts must be 0 (all) or above; {self.num_prompts} was given")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, or all samples are equal; {self.temperature} was given")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1]; {self.top_p} was given")
        if self.select not in ("prm", "outcome"):
            raise ValueError(f"select {self.select!r} is unknown; choose from prm, outcome")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate {self.aggregate!r} is unknown; choose from {', '.join(AGGREGATES)}")

    def learning_rate(self, iteration: int) -> float:
        """The peak rate of an iteration in 1 .. T: `sft.learning_rate` * (T - t + 1) / T (arXiv 2412.11006)."""
        return self.sft.learning_rate * (self.num_iterations - iteration + 1) / self.num_iterations

    def prompts(self, problems: Sequence[Problem], iteration: int) -> list[Problem]:
        """The problems of an iteration in 1 .. T."""
        num = self.num_prompts or len(problems)
        return [problems[((iteration - 1) * num + idx) % len(problems)] for idx in range(num)]


@dataclass(frozen=True, slots=True)
class Kept:
    """What an iteration sampled and kept; prompts are kept, dropped or skipped."""

    num_prompts: int
    num_skipped: int
    """Prompts that do not fit the policy's context."""
    num_dropped: int
    """Prompts without a completion to keep."""
    num_kept: int
    kept_accuracy: float
    """Share of the kept completions that are right."""
    num_samples: int
    num_sampled_tokens: int
    sample_accuracy: float
    """Share of all completions that are right."""
    num_ungradable: int
    """Completions that could not be graded; they count as wrong."""
    num_unfinished: int
    """Completions that ran into the token limit; never kept."""
    num_refused: int
    """Completions that the PRM cannot read, too long for it for example; never kept."""


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
            "gain_over_base": {name: _estimate_row(gain, "difference") for name, gain in gains.items() if gain} or None,
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
        check_prm(prm, prm_format, policy, next(item for item in problems if fits_context(policy, item)), config.max_tokens)
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
        stages = Stages(run, problems, eval_problems, base, config, executor, prm, prm_format, load, on_stage, on_step, loaded=(0, policy))
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
                "greedy": SampleWork(policy, self.eval_problems, RolloutConfig(1, 0.0, max_tokens=config.max_tokens, seed=config.seed)),
                # the same seed every time: what differs between iterations is the policy
                "sampled": SampleWork(policy, self.eval_problems, self._rollouts(config.num_eval_samples, config.seed)),
            }
            with Run.open(self._directory(iteration) / "evaluate", "raft evaluate", {"policy": policy.name}) as run:
                accuracies = {}
                for name, work in works.items():
                    complete(run, self.executor, work)
                    outcomes = (SampleOutcome.from_row(row) for row in run.rows(work.keys))
                    accuracies[name] = [float(np.mean([end.is_correct for end in outcome.ends])) for outcome in outcomes]
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
            raise ValueError(f"iteration {iteration} has no prompt that fits the policy's context of {policy.max_length} tokens")
        work = SampleWork(policy, fitting, self._rollouts(config.num_samples, stage_seed(config.seed, iteration, "samples")))
        with Run.open(directory / "samples", "raft samples", {"policy": policy.name}) as run:
            complete(run, self.executor, work)
            chooser = Chooser(config, iteration)
            scores: Iterator[list[list[float] | None] | None] = iter([None] * len(fitting))
            if self.prm is not None:
                self.on_stage(f"iteration {iteration}: score")
                score_work = CandidateWork(self.prm, self.prm_format, run, work.keys)
                complete(run, self.executor, score_work)
                scores = (row["scores"] for row in run.rows(score_work.keys))
            outcomes = (SampleOutcome.from_row(row) for row in run.rows(work.keys))
            replace_file(directory / KEPT, chooser.lines(policy, outcomes, scores))
            kept = chooser.kept(len(prompts))
            run.finish(asdict(kept))
        if kept.num_kept == 0:
            raise ValueError(f"iteration {iteration} has nothing to learn from: {kept}; sample more or longer, or give other problems")
        self.run.append([(key, {"kind": "kept", **asdict(kept)})])

    def tune(self, iteration: int) -> None:
        """Fine-tune the policy before on what was kept."""
        key = f"{iteration}/training"
        if key in self.run:
            return
        self.on_stage(f"iteration {iteration}: fine-tune")
        from forkpoint.sft import fine_tune

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
        replace_file(self.run.directory / RESULTS, [(json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode()])

    def _row(self, key: str) -> dict[str, Any]:
        row = next(self.run.rows([key]))
        del row["kind"]
        return row

    def _rollouts(self, num_samples: int, seed: int) -> RolloutConfig:
        return RolloutConfig(num_samples, self.config.temperature, self.config.top_p, self.config.max_tokens, seed)

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


class CandidateWork:
    """The step scores of every completion that may be kept; null for one that has not ended or that the PRM refuses to read."""

    def __init__(self, prm: Scorer, prm_format: PRMFormat, run: Run, sample_keys: Sequence[str]) -> None:
        self._prm, self._format, self._run, self._sample_keys = prm, prm_format, run, sample_keys
        self.keys = [content_key({"candidates_of": key, "scorer": prm.name}) for key in sample_keys]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        outcomes = [SampleOutcome.from_row(row) for row in self._run.rows([self._sample_keys[idx] for idx in idxs])]
        solutions = [
            [
                (outcome.problem.question, path.steps(self._format.segmentation, self._format.rule)[0])
                if path.completion.finish == "stop"
                else None
                for path in outcome.paths
            ]
            for outcome in outcomes
        ]
        distinct = list(dict.fromkeys(item for items in solutions for item in items if item))
        scores = dict(zip(distinct, scores_or_refusals(self._prm, distinct), strict=True))
        return [{"kind": "candidates", "scores": [scores[item] if item else None for item in items]} for items in solutions]


def scores_or_refusals(prm: Scorer, solutions: Sequence[tuple[str, tuple[str, ...]]]) -> list[list[float] | None]:
    """Step scores per (question, steps), rounded to 6 decimals; None for a solution that the PRM refuses with LayoutError."""
    if not solutions:
        return []
    try:
        scores = prm.score([question for question, _ in solutions], [steps for _, steps in solutions])
    except LayoutError:  # of one at least: halves find which
        half = len(solutions) // 2
        return [*scores_or_refusals(prm, solutions[:half]), *scores_or_refusals(prm, solutions[half:])] if half else [None]
    return [[round(score, 6) for score in its_scores] for its_scores in scores]


class Chooser:
    """Picks what is kept of every prompt, and counts."""

    def __init__(self, config: RaftConfig, iteration: int) -> None:
        self._config, self._iteration = config, iteration
        self._counts: Counter[str] = Counter()

    def lines(
        self, policy: Policy, outcomes: Iterator[SampleOutcome], scores: Iterator[list[list[float] | None] | None]
    ) -> Iterator[bytes]:
        """The lines of kept.jsonl; outcomes and scores run in parallel, one pair per prompt, no scores without a PRM."""
        for outcome, its_scores in zip(outcomes, scores, strict=True):
            values = None if its_scores is None else [self._value(step_scores) for step_scores in its_scores]
            self._count(outcome, values)
            idx = self.choice(outcome, values)
            if idx is None:
                self._counts["dropped"] += 1
                continue
            self._counts.update(kept=1, kept_right=outcome.ends[idx].is_correct)
            path = outcome.paths[idx]
            row = {
                "problem_id": outcome.problem.id,
                "question": outcome.problem.question,
                "text": path.text,
                "is_correct": outcome.ends[idx].is_correct,
                "sample_idx": idx,
                "score": values[idx] if values else None,
                "prompt_ids": policy.encode_question(outcome.problem.question),
                "completion_ids": path.completion.token_ids,
            }
            yield (json.dumps(row, ensure_ascii=False) + "\n").encode()

    def choice(self, outcome: SampleOutcome, scores: Sequence[float | None] | None) -> int | None:
        """The index of the completion to keep, None where there is none; of equal scores the first."""
        if self._config.select == "prm":
            assert scores is not None, "keeping by PRM needs scores"
            idxs = [idx for idx, score in enumerate(scores) if score is not None]
            return idxs[best([score for score in scores if score is not None])] if idxs else None
        ends = zip(outcome.ends, outcome.paths, strict=True)
        idxs = [idx for idx, (end, path) in enumerate(ends) if end.is_correct and path.completion.finish == "stop"]
        rng = random.Random(f"{self._config.seed}/{self._iteration}/{outcome.problem.id}")
        return rng.choice(idxs) if idxs else None

    def kept(self, num_prompts: int) -> Kept:
        """The counts, once all lines are written."""
        counts = self._counts
        return Kept(
            num_prompts=num_prompts,
            num_skipped=num_prompts - counts["dropped"] - counts["kept"],
            num_dropped=counts["dropped"],
            num_kept=counts["kept"],
            kept_accuracy=counts["kept_right"] / max(1, counts["kept"]),
            num_samples=counts["samples"],
            num_sampled_tokens=counts["tokens"],
            sample_accuracy=counts["right"] / max(1, counts["samples"]),
            num_ungradable=counts["ungradable"],
            num_unfinished=counts["unfinished"],
            num_refused=counts["refused"],
        )

    def _value(self, step_scores: list[float] | None) -> float | None:
        return None if step_scores is None else aggregate(step_scores, self._config.aggregate)

    def _count(self, outcome: SampleOutcome, scores: Sequence[float | None] | None) -> None:
        is_finished = [path.completion.finish == "stop" for path in outcome.paths]
        num_scored = sum(is_finished) if scores is None else sum(score is not None for score in scores)
        self._counts.update(
            samples=len(outcome.ends),
            tokens=outcome.cost.sampled_tokens,
            right=sum(end.is_correct for end in outcome.ends),
            ungradable=sum(not end.is_gradable for end in outcome.ends),
            unfinished=len(is_finished) - sum(is_finished),
            refused=sum(is_finished) - num_scored,
        )


def read_kept(path: Path) -> list[SFTRow]:
    """The rows of a kept.jsonl as they are trained on: the ids that the policy sampled, not its text tokenised again."""
    with path.open(encoding="utf-8") as file:
        rows = map(json.loads, file)
        return [SFTRow(tuple(row["prompt_ids"]), tuple(row["completion_ids"])) for row in rows]


def check_prm(prm: Scorer, prm_format: PRMFormat, policy: Policy, problem: Problem, max_tokens: int) -> None:
    """LayoutError unless the PRM can read the policy's greedy solution of `problem`, which is sampled here.

    The PRM's tokenizer must give the text back as it was, must find no step tag and no other special token in it, and the
    whole must fit the PRM's `max_length`. A scorer without `tokenizer` and `layout` cannot be checked, and is taken as it is.
    """
    tokenizer, layout = getattr(prm, "tokenizer", None), getattr(prm, "layout", None)
    if tokenizer is None or layout is None:
        return
    prompt_ids = policy.encode_question(problem.question)
    limit = max_tokens if policy.max_length is None else min(max_tokens, policy.max_length - len(prompt_ids))
    path = paths_of(policy, policy.generate([Request(prompt_ids, limit)]))[0]
    prompt = prm_format.template.replace("{question}", problem.question)
    steps = path.steps(prm_format.segmentation, prm_format.rule)[0]
    reserved = {layout.tag_id, *tokenizer.all_special_ids}
    where = f"{prm.name} cannot read what {policy.name} says to problem {problem.id}"
    for piece in (prompt, *steps):
        ids = tokenizer.encode(piece, add_special_tokens=False)
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if back != piece:
            raise LayoutError(f"{where}: its tokenizer makes {back!r} of {piece!r}; use a PRM that was trained on such texts")
        found = reserved.intersection(ids)
        if found:
            token = tokenizer.decode([min(found)])
            raise LayoutError(f"{where}: {piece!r} holds its special token {token!r}; scores would be read at the wrong places")
    try:
        layout.encode(problem.question, steps)
    except LayoutError as error:
        raise LayoutError(f"{where}: {error}") from error


def stage_seed(seed: int, iteration: int, stage: str) -> int:
    """A 31-bit seed of a stage's own."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{iteration}/{stage}".encode(), digest_size=4).digest(), "big") >> 1


def _check_arguments(problems: Sequence[Problem], eval_problems: Sequence[Problem], config: RaftConfig, prm: Scorer | None) -> None:
    if not problems or not eval_problems:
        raise ValueError(f"problems to learn from and to evaluate on are needed; {len(problems)} and {len(eval_problems)} were given")
    if config.num_prompts > len(problems):
        raise ValueError(f"num_prompts {config.num_prompts} is more than the {len(problems)} problems; give 0 to take all of them")
    if config.select == "prm" and prm is None:
        raise ValueError("select 'prm' needs a PRM; give one, or choose select 'outcome'")
    if config.select == "outcome" and prm is not None:
        raise ValueError("select 'outcome' keeps right completions and asks no PRM; leave the PRM out, or choose select 'prm'")
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
        raise ValueError(f"{num_long} evaluation prompts do not fit the policy's context of {policy.max_length} tokens; leave them out")
    if not any(fits_context(policy, problem) for problem in problems):
        raise ValueError(f"no prompt fits the policy's context of {policy.max_length} tokens")


def _estimate_row(estimate: Estimate, name: str) -> dict[str, float]:
    return {name: estimate.mean, "ci_low": estimate.low, "ci_high": estimate.high, "num_problems": estimate.num_problems}
