"""Which completion of each prompt RAFT keeps in an iteration, and the counts.

Invariant: every prompt is kept, dropped or skipped, and counted as one of them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.records import Policy
from forkpoint.select import aggregate, best
from forkpoint.solutions.outcomes import SampleOutcome
from forkpoint.training.config import SFTRow

KEPT = "kept.jsonl"


@dataclass(frozen=True, slots=True)
class Kept:
    """Counts of an iteration; every prompt is kept, dropped or skipped."""

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
    """Completions that the PRM cannot read, for example because they are too long; never kept."""


class Keeper:
    """Picks the completion of every prompt that is kept, and counts."""

    def __init__(self, config: RaftConfig, iteration: int) -> None:
        self._config, self._iteration = config, iteration
        self._counts: Counter[str] = Counter()

    def lines(
        self,
        policy: Policy,
        outcomes: Iterator[SampleOutcome],
        scores: Iterator[list[list[float] | None] | None],
    ) -> Iterator[bytes]:
        """The lines of kept.jsonl; one outcome and one list of step scores per prompt, None without a PRM."""
        for outcome, candidates in zip(outcomes, scores, strict=True):
            values = None if candidates is None else [self._value(step_scores) for step_scores in candidates]
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
            yield (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def choice(self, outcome: SampleOutcome, scores: Sequence[float | None] | None) -> int | None:
        """Index of the completion to keep, None if there is none to keep; the first one of equal scores."""
        if self._config.select == "prm":
            assert scores is not None, "keeping by PRM needs scores"
            idxs = [idx for idx, score in enumerate(scores) if score is not None]
            return idxs[best([score for score in scores if score is not None])] if idxs else None
        ends = zip(outcome.ends, outcome.paths, strict=True)
        idxs = [
            idx for idx, (end, path) in enumerate(ends) if end.is_correct and path.completion.finish == "stop"
        ]
        rng = random.Random(f"{self._config.seed}/{self._iteration}/{outcome.problem.id}")
        return rng.choice(idxs) if idxs else None

    def kept(self, num_prompts: int) -> Kept:
        """The counts; complete when all lines are written."""
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
    """The rows of a kept.jsonl to train on: the ids that the policy sampled, not its text tokenised again."""
    with path.open(encoding="utf-8") as file:
        rows = map(json.loads, file)
        return [SFTRow(tuple(row["prompt_ids"]), tuple(row["completion_ids"])) for row in rows]
