"""Raw outcomes as they are journaled: a policy's solutions of a problem, graded, before any label or score.

Invariant: a row holds everything that labels, steps and scores are derived from (tokens, their texts,
entropies, verdicts, cost), so that deriving them again needs neither the policy nor its tokenizer. Floats are
rounded to 6 decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from forkpoint.grading.ends import End, graded
from forkpoint.records import (
    NUM_DECIMALS,
    Branch,
    Completion,
    Cost,
    Policy,
    Problem,
    ScoringCost,
    Solution,
    Tree,
)
from forkpoint.steps import Path


@dataclass(frozen=True, slots=True)
class TreeOutcome:
    """A grown tree with its leaves graded."""

    problem: Problem
    tree: Tree
    branch_texts: tuple[tuple[str, ...], ...]
    """Per branch, the text of each of its own tokens."""
    ends: tuple[End, ...]
    cost: Cost
    scoring: ScoringCost | None = None
    """The cost of the PRM that steered the tree; None if none did."""
    num_pruned: int = 0
    """Anchors that were never forked because of their score."""

    def path(self, leaf_idx: int) -> Path:
        """The solution that ends in a leaf."""
        return Path(self.tree.path(leaf_idx), self._texts(leaf_idx))

    @property
    def num_cut_off(self) -> int:
        """Leaves that ended for lack of room and not by an end token."""
        return sum(branch.completion.finish == "length" for branch in self.tree.branches)

    def solutions(self) -> tuple[Solution, ...]:
        """One solution per leaf.

        A sampled token counts for the leaf that it was sampled for, a forced runner-up for none.
        """
        sampled = [len(branch.completion) - (branch.parent_idx is not None) for branch in self.tree.branches]
        return tuple(_solution(self.path(idx), end, sampled[idx]) for idx, end in enumerate(self.ends))

    def _texts(self, leaf_idx: int) -> tuple[str, ...]:
        branch = self.tree.branches[leaf_idx]
        head = () if branch.parent_idx is None else self._texts(branch.parent_idx)[: branch.fork]
        return head + self.branch_texts[leaf_idx]

    def to_row(self) -> dict[str, Any]:
        branches = [
            {"parent": branch.parent_idx, "fork": branch.fork, **_completion_row(branch.completion, texts)}
            for branch, texts in zip(self.tree.branches, self.branch_texts, strict=True)
        ]
        steered = {"scoring": asdict(self.scoring), "num_pruned": self.num_pruned} if self.scoring else {}
        return {
            "kind": "tree",
            "prompt_ids": list(self.tree.prompt_ids),
            "branches": branches,
            **_common_row(self),
            **steered,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> TreeOutcome:
        branches = tuple(Branch(item["parent"], item["fork"], _completion(item)) for item in row["branches"])
        texts = tuple(tuple(item["texts"]) for item in row["branches"])
        steered: dict[str, Any] = {}
        if "scoring" in row:
            steered = {"scoring": ScoringCost(**row["scoring"]), "num_pruned": row["num_pruned"]}
        return cls(
            tree=Tree(tuple(row["prompt_ids"]), branches), branch_texts=texts, **_common(row), **steered
        )


@dataclass(frozen=True, slots=True)
class SampleOutcome:
    """Independent samples of one prompt, graded."""

    problem: Problem
    paths: tuple[Path, ...]
    ends: tuple[End, ...]
    cost: Cost

    def path(self, leaf_idx: int) -> Path:
        return self.paths[leaf_idx]

    @property
    def num_cut_off(self) -> int:
        """Samples that ended for lack of room and not by an end token."""
        return sum(path.is_cut_off for path in self.paths)

    def solutions(self) -> tuple[Solution, ...]:
        return tuple(
            _solution(path, end, len(path.completion))
            for path, end in zip(self.paths, self.ends, strict=True)
        )

    def to_row(self) -> dict[str, Any]:
        samples = [_completion_row(path.completion, path.token_texts) for path in self.paths]
        return {"kind": "samples", "samples": samples, **_common_row(self)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> SampleOutcome:
        return cls(
            paths=tuple(Path(_completion(item), tuple(item["texts"])) for item in row["samples"]),
            **_common(row),
        )


def paths_of(policy: Policy, completions: Sequence[Completion]) -> tuple[Path, ...]:
    """The completions, each with the text of its tokens."""
    return tuple(
        Path(completion, tuple(policy.token_texts(completion.token_ids))) for completion in completions
    )


def ends_of(
    problems: Sequence[Problem], paths: Sequence[Sequence[Path]], texts: Sequence[Sequence[str]] | None = None
) -> list[tuple[End, ...]]:
    """Grade the paths of every problem; `texts` are the texts to grade if paths continue a prefix.

    A path that was cut off has no answer and counts as wrong, whatever its text is: a grader would read a
    number in the middle of an unfinished line as the answer.
    """
    if texts is None:
        texts = [[path.text for path in paths_of_problem] for paths_of_problem in paths]
    return [
        tuple(
            replace(end, answer=None, is_correct=False) if path.is_cut_off else end
            for path, end in zip(paths_of_problem, ends, strict=True)
        )
        for paths_of_problem, ends in zip(paths, graded(problems, texts), strict=True)
    ]


def _solution(path: Path, end: End, num_sampled_tokens: int) -> Solution:
    return Solution(
        path.text,
        path.completion.token_ids,
        path.completion.entropies,
        end.answer,
        end.is_correct,
        num_sampled_tokens,
    )


def _completion_row(completion: Completion, texts: Sequence[str]) -> dict[str, Any]:
    return {
        "ids": list(completion.token_ids),
        "texts": list(texts),
        "logprobs": _rounded(completion.logprobs),
        "entropies": _rounded(completion.entropies),
        "runner_up_ids": list(completion.runner_up_ids),
        "runner_up_logprobs": _rounded(completion.runner_up_logprobs),
        "finish": completion.finish,
        "num_reused_tokens": completion.num_reused_tokens,
    }


def _completion(item: dict[str, Any]) -> Completion:
    return Completion(
        token_ids=tuple(item["ids"]),
        logprobs=tuple(item["logprobs"]),
        entropies=tuple(item["entropies"]),
        runner_up_ids=tuple(item["runner_up_ids"]),
        runner_up_logprobs=tuple(item["runner_up_logprobs"]),
        finish=item["finish"],
        num_reused_tokens=item["num_reused_tokens"],
    )


def _common_row(outcome: TreeOutcome | SampleOutcome) -> dict[str, Any]:
    return {
        "problem": asdict(outcome.problem),
        "ends": [asdict(end) for end in outcome.ends],
        "cost": asdict(outcome.cost),
    }


def _common(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "problem": Problem(**row["problem"]),
        "ends": tuple(End(**end) for end in row["ends"]),
        "cost": Cost(**row["cost"]),
    }


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, NUM_DECIMALS) for number in numbers]
