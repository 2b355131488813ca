"""The nouns that flow everywhere, and the protocols they flow through.

Invariant: every record is immutable, holds plain Python values only, and needs neither torch nor a tokenizer to be read.
Token positions are offsets into a solution: 0 is the first token after the prompt. Entropies and log-probabilities are
those of the policy's own next-token softmax at temperature 1, untruncated, in nats, whatever temperature was sampled at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

NUM_DECIMALS = 6
"""Decimals to which entropies, log-probabilities and scores are rounded before they are journaled or decide anything."""
Finish = Literal["stop", "length"]
"""Why a completion ended: the policy's end token (which is then its last token), or the token limit."""
EntropyBound = Literal["exact", "lower", "upper"]
"""What a policy's entropies are: those of the whole distribution, or bounds of them that are known from its most probable tokens."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a known answer."""

    id: str
    """Unique in its problem set and stable across sessions."""
    question: str
    answer: str
    grader: str = "numeric"
    """How answers are judged: a name that `forkpoint.grading.grade` knows, or `module:function`."""


@dataclass(frozen=True, slots=True)
class Request:
    """Continue a token prefix."""

    prefix_ids: tuple[int, ...]
    """Prompt and everything already decided, at least one token."""
    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    """With the same prefix, settings and seed a policy returns the same sample, whatever else is in the batch."""

    def __post_init__(self) -> None:
        if not self.prefix_ids:
            raise ValueError("a request needs at least one prefix token; an empty prefix was given")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; {self.max_tokens} was given")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or above; {self.temperature} was given")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1]; {self.top_p} was given")


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy adds to a prefix; all tuples have one entry per token."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of the token taken."""
    entropies: tuple[float, ...]
    """Of the whole next-token distribution at that position: H = -sum_v p(v) ln p(v), in nats; or a bound, see `Policy.entropy_bound`."""
    runner_up_ids: tuple[int, ...]
    """The most probable token other than the one taken."""
    runner_up_logprobs: tuple[float, ...]
    finish: Finish
    num_reused_tokens: int = 0
    """Prefix tokens that the policy did not have to compute for this request."""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Cost:
    """What sampling took. `reused_tokens` is the part of `prompt_tokens` that was not computed again."""

    requests: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    sampled_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.reused_tokens + other.reused_tokens,
            self.sampled_tokens + other.sampled_tokens,
        )

    @classmethod
    def of(cls, requests: Sequence[Request], completions: Sequence[Completion]) -> Cost:
        """The cost of answering `requests` with `completions`."""
        return cls(
            requests=len(requests),
            prompt_tokens=sum(len(request.prefix_ids) for request in requests),
            reused_tokens=sum(completion.num_reused_tokens for completion in completions),
            sampled_tokens=sum(len(completion) for completion in completions),
        )


@dataclass(frozen=True, slots=True)
class ScoringCost:
    """What a PRM took to steer a tree."""

    solutions: int = 0
    """Leaves that it read."""
    tokens: int = 0
    """Tokens that it read, prompts and step tags included; a prefix counts again for every leaf that has it."""

    def __add__(self, other: ScoringCost) -> ScoringCost:
        return ScoringCost(self.solutions + other.solutions, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Branch:
    """One path of a tree from the place where it leaves its parent's path; it ends in a leaf.

    The path of a branch is the first `fork` tokens of its parent's path followed by its own tokens; the root branch
    has no parent and `fork` 0.
    """

    parent_idx: int | None
    fork: int
    completion: Completion
    """The branch's own tokens; the first one is the runner-up that was forced (for the root: the greedy choice)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All branches grown from one prompt, in the order in which they were grown: branch i ends in leaf i.

    The tree with a smaller leaf budget n is `branches[:n]`.
    """

    prompt_ids: tuple[int, ...]
    branches: tuple[Branch, ...]

    @property
    def num_leaves(self) -> int:
        return len(self.branches)

    def path(self, leaf_idx: int) -> Completion:
        """All tokens from the prompt's end to the leaf, as one completion."""
        branch = self.branches[leaf_idx]
        if branch.parent_idx is None:
            return branch.completion
        head, tail = self.path(branch.parent_idx), branch.completion
        return Completion(
            token_ids=head.token_ids[: branch.fork] + tail.token_ids,
            logprobs=head.logprobs[: branch.fork] + tail.logprobs,
            entropies=head.entropies[: branch.fork] + tail.entropies,
            runner_up_ids=head.runner_up_ids[: branch.fork] + tail.runner_up_ids,
            runner_up_logprobs=head.runner_up_logprobs[: branch.fork] + tail.runner_up_logprobs,
            finish=tail.finish,
            num_reused_tokens=tail.num_reused_tokens,
        )


@dataclass(frozen=True, slots=True)
class Solution:
    """A finished attempt at a problem, graded."""

    text: str
    token_ids: tuple[int, ...]
    entropies: tuple[float, ...]
    """In nats, one per token; empty where the solution did not come from a policy with entropies."""
    answer: str | None
    """The answer read out of the text; None where there is none."""
    is_correct: bool
    num_sampled_tokens: int
    """Tokens sampled for this solution alone; a prefix shared with an earlier solution counts there."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of a prefix, graded; both tuples have one entry per token, end token included.

    Both are empty where only the verdict was kept. `is_correct` judges the whole solution: the prefix and this.
    ValueError where the tuples differ in length.
    """

    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    is_correct: bool

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.token_texts):
            num_ids, num_texts = len(self.token_ids), len(self.token_texts)
            raise ValueError(
                f"a rollout needs one text per token; {num_ids} tokens and {num_texts} texts were given"
            )


@dataclass(frozen=True, slots=True)
class Label:
    """How good a step is, with the evidence it rests on."""

    value: float
    """In [0, 1]."""
    num_correct: int
    num_total: int
    """Outcomes below the step."""
    effective_size: float
    """Kish's effective number of outcomes, (sum w)^2 / sum w^2; `num_total` where weights are uniform."""
    low: float
    """The 95 % interval of `value`, in [0, 1]."""
    high: float


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution cut into steps, one label per step; the text is the steps joined without anything between."""

    problem_id: str
    question: str
    steps: tuple[str, ...]
    labels: tuple[Label, ...]
    is_correct: bool


class Policy(Protocol):
    """Continues text (seam 1)."""

    @property
    def name(self) -> str:
        """What identifies the policy in a run's configuration: two policies that differ have different names."""
        ...

    @property
    def num_parameters(self) -> int | None:
        """Weights of the model; None where that is unknown."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a completion."""
        ...

    @property
    def max_length(self) -> int | None:
        """Tokens of prompt and completion together at most; None where there is no limit."""
        ...

    @property
    def entropy_bound(self) -> EntropyBound:
        """What its entropies are: exact, or an end of the interval that the most probable tokens leave; part of the name."""
        ...

    def encode_question(self, question: str) -> tuple[int, ...]:
        """The prompt's token ids, template included."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids` without end and other special tokens."""
        ...

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; joined they are `decode(token_ids)`.

        Special tokens are empty; a character split over several tokens belongs to the one that completes it.
        """
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the same order; a prefix that ends in an end token gets an empty one."""
        ...

    def reset_cache(self) -> None:
        """Forget what earlier calls left behind; costs, and rounding errors, then are those of a new policy."""
        ...


class Scorer(Protocol):
    """Scores steps (seam 2)."""

    @property
    def name(self) -> str:
        """What identifies the scorer: two scorers that differ have different names."""
        ...

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        """One score in [0, 1] per step of each solution; `questions` and `steps` run in parallel."""
        ...
