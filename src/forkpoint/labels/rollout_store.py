"""Rollouts of solution prefixes, in the journal of a run: sampled once, graded, and kept as raw outcomes.

A row holds the outcomes of the samples first .. first + n - 1 of one prefix; sample i of a prefix is the same
whenever it is drawn. So rows add up: asking for more rollouts later samples only the missing ones, and no
sample of a prefix is ever drawn twice.
Invariant: outcomes are a function of policy, settings, prefix and sample number alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.policies.context import room_after
from forkpoint.policies.jobs import done_jobs
from forkpoint.records import Cost, Policy, Problem, Rollout
from forkpoint.runs import Run, complete
from forkpoint.runs.work import Executor, Rows, rows_of
from forkpoint.solutions.outcomes import ends_of, paths_of
from forkpoint.solutions.sample import RolloutConfig, Samples

PROBLEM_FIELDS = tuple(field.name for field in fields(Problem))


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first tokens of a solution.

    They are continued as they are, without being decoded and encoded again.
    """

    problem: Problem
    token_ids: tuple[int, ...]
    """Tokens after the prompt."""
    text: str

    @property
    def key(self) -> str:
        """A hash of the problem and the tokens; the text is not part of it."""
        # several times as fast as asdict
        identity = {name: getattr(self.problem, name) for name in PROBLEM_FIELDS}
        return content_key({"problem": identity, "prefix": list(self.token_ids)})


class RolloutWork:
    """The work of a run that draws some samples of each prefix: one row per prefix and span of samples."""

    stays_here = False
    shows_progress = True
    """Whether executors report progress; False for one of many small rounds."""

    def __init__(
        self,
        policy: Policy,
        items: Sequence[tuple[Prefix, range]],
        config: RolloutConfig,
        keeps_tokens: bool = False,
    ) -> None:
        self._policy, self._items, self._config = policy, list(items), config
        self._keeps_tokens = keeps_tokens
        settings = {name: value for name, value in asdict(config).items() if name != "num_samples"} | {
            "keeps_tokens": keeps_tokens
        }
        identity = content_key({"rollouts": settings, "policy": policy.name})
        self.keys = [content_key([identity, prefix.key, span.start, span.stop]) for prefix, span in items]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        return rows_of(self, idxs)

    def stream(self, idxs: Iterable[int], at_a_time: int) -> Rows:
        self._policy.reset_cache()  # the memory of what was done before is not needed any more
        jobs = ((idx, self._samples(*self._items[idx])) for idx in idxs)
        for idx, samples in done_jobs(self._policy, jobs, at_a_time=at_a_time):
            yield idx, self._row(*self._items[idx], samples)

    def _samples(self, prefix: Prefix, span: range) -> Samples:
        start = self._policy.encode_question(prefix.problem.question) + prefix.token_ids
        room = room_after(self._policy, start, self._config.max_tokens - len(prefix.token_ids))
        return Samples(start, self._config, max(1, room), span)

    def _row(self, prefix: Prefix, span: range, samples: Samples) -> dict[str, Any]:
        paths = paths_of(self._policy, samples.completions)
        (ends,) = ends_of([prefix.problem], [paths], [[prefix.text + path.text for path in paths]])
        row: dict[str, Any] = {"kind": "rollouts", "prefix": prefix.key, "first": span.start}
        row |= {"correct": [int(end.is_correct) for end in ends], "cost": asdict(samples.cost)}
        if num_cut_off := sum(path.is_cut_off for path in paths):
            row["num_cut_off"] = num_cut_off
        if self._keeps_tokens:
            row["completions"] = [
                {"ids": list(path.completion.token_ids), "texts": list(path.token_texts)} for path in paths
            ]
        return row


@dataclass(frozen=True, slots=True)
class _Span:
    """A row of the journal without its tokens."""

    first: int
    outcomes: bytes
    """One byte per sample: 1 if it is right, else 0."""
    row_key: str


class RolloutStore:
    """The rollouts of a run by prefix: outcomes in memory; tokens, if they were kept, in the journal."""

    def __init__(self, run: Run) -> None:
        self.cost = Cost()
        self.num_rollouts = self.num_cut_off = 0
        self._run = run
        self._spans: dict[str, tuple[_Span, ...]] = {}
        for key, row in run.journal.items():
            if row["kind"] == "rollouts":
                self._add(key, row)

    def outcomes(self, prefix: Prefix) -> tuple[bool, ...]:
        """Whether the samples 0, 1, ... of a prefix are right, up to the first sample that is missing."""
        return tuple(bool(outcome) for span in self._joined(prefix) for outcome in span.outcomes)

    def of(self, prefix: Prefix) -> list[Rollout]:
        """The samples whose verdicts `outcomes(prefix)` gives; reads them from the journal."""
        rows = self._run.rows(span.row_key for span in self._joined(prefix))
        return [rollout for row in rows for rollout in _rollouts(row)]

    def spans(self, prefix: Prefix) -> list[range]:
        """The sample numbers of `outcomes(prefix)`, one range per row."""
        return [range(span.first, span.first + len(span.outcomes)) for span in self._joined(prefix)]

    def fetch(
        self,
        run: Run,
        executor: Executor,
        policy: Policy,
        items: Sequence[tuple[Prefix, range]],
        config: RolloutConfig,
        keeps_tokens: bool = False,
        shows_progress: bool = True,
    ) -> None:
        """Draw the samples of `items` that the run lacks, and add them.

        RuntimeError if some of them failed.
        """
        work = RolloutWork(policy, items, config, keeps_tokens)
        work.shows_progress = shows_progress
        complete(run, executor, work)
        for key, row in run.journal.items(work.keys):
            self._add(key, row)

    def _add(self, key: str, row: dict[str, Any]) -> None:
        spans = self._spans.get(row["prefix"], ())
        if all(span.first != row["first"] for span in spans):
            self._spans[row["prefix"]] = (*spans, _Span(row["first"], bytes(row["correct"]), key))
            self.num_rollouts += len(row["correct"])
            self.num_cut_off += row.get("num_cut_off", 0)  # older rows do not say
            self.cost += Cost(**row["cost"])

    def _joined(self, prefix: Prefix) -> list[_Span]:
        """The spans of a prefix from sample 0 up to the first gap."""
        by_first = {span.first: span for span in self._spans.get(prefix.key, ())}
        found: list[_Span] = []
        start = 0
        while start in by_first:
            found.append(by_first[start])
            start += len(found[-1].outcomes)
        return found


def _rollouts(row: dict[str, Any]) -> Iterator[Rollout]:
    completions = row.get("completions") or [{"ids": (), "texts": ()}] * len(row["correct"])
    for completion, is_correct in zip(completions, row["correct"], strict=True):
        yield Rollout(tuple(completion["ids"]), tuple(completion["texts"]), bool(is_correct))
