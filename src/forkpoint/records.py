"""The records that every part of the package shares, and the protocols of policies and scorers.

Invariant: every record is immutable, holds plain Python values only, and needs neither torch nor a tokenizer
to be read. Token positions are offsets into a solution: 0 is the first token after the prompt. Entropies and
log-probabilities belong to the policy's own next-token softmax at temperature 1, untruncated, in nats,
whatever temperature tokens are sampled at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

NUM_DECIMALS = 6
"""Decimals to which entropies, log-probabilities and scores are rounded before they are journaled or decide
anything."""
Finish = Literal["stop", "length"]
"""Why a completion ended: the policy's end token (which is then its last token), or the token limit."""
EntropyBound = Literal["exact", "lower", "upper"]
"""Whether a policy's entropies are those of the whole distribution (exact), or a lower or an upper bound of
them that is computed from its most probable tokens."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a known answer."""

    id: str
    """A name that is unique in its problem set and never changes."""
    question: str
    answer: str
    grader: str = "numeric"
    """How answers are judged: a name that `forkpoint.grading.grade` knows, or `module:function`."""


@dataclass(frozen=True, slots=True)
class Request:
    """Continue a token prefix."""

    prefix_ids: tuple[int, ...]
    """The prompt and the tokens that are already decided; at least one token."""
    max_tokens: int
    temperature: float = 0.0
    """Sampling temperature; 0 decodes greedily."""
    top_p: float = 1.0
    seed: int = 0
    """With the same prefix, settings and seed a policy returns the same sample, whatever else is in the
    batch."""

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
    """Log-probability of each token."""
    entropies: tuple[float, ...]
    """Entropy of the whole next-token distribution at each position, H = -sum_v p(v) ln p(v), in nats; or a
    bound of it, see `Policy.entropy_bound`."""
    runner_up_ids: tuple[int, ...]
    """The most probable token at each position other than the one taken."""
    runner_up_logprobs: tuple[float, ...]
    finish: Finish
    num_reused_tokens: int = 0
    """Prefix tokens that the policy did not have to compute for this request."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def joined(self, num_tokens: int, tail: Completion) -> Completion:
        """The first `num_tokens` tokens, then `tail`."""
        return Completion(
            token_ids=self.token_ids[:num_tokens] + tail.token_ids,
            logprobs=self.logprobs[:num_tokens] + tail.logprobs,
            entropies=self.entropies[:num_tokens] + tail.entropies,
            runner_up_ids=self.runner_up_ids[:num_tokens] + tail.runner_up_ids,
            runner_up_logprobs=self.runner_up_logprobs[:num_tokens] + tail.runner_up_logprobs,
            finish=tail.finish,
            num_reused_tokens=tail.num_reused_tokens,
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of sampling. `reused_tokens` is the part of `prompt_tokens` that was not computed again."""

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
    """The cost of a PRM that steers a tree."""

    solutions: int = 0
    """Leaves that the PRM read."""
    tokens: int = 0
    """Tokens that the PRM read, prompts and step tags included; a prefix counts again for every leaf that has
    it."""

    def __add__(self, other: ScoringCost) -> ScoringCost:
        return ScoringCost(self.solutions + other.solutions, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Branch:
    """One path of a tree from the place where it leaves its parent's path; it ends in a leaf.

    The path of a branch is the first `fork` tokens of its parent's path followed by its own tokens; the root
    branch has no parent and `fork` 0.
    """

    parent_idx: int | None
    fork: int
    completion: Completion
    """The branch's own tokens; the first one is the runner-up that was forced (in the root, the greedy
    choice)."""


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
        return self.path(branch.parent_idx).joined(branch.fork, branch.completion)


@dataclass(frozen=True, slots=True)
class Solution:
    """A finished attempt at a problem, graded."""

    text: str
    token_ids: tuple[int, ...]
    entropies: tuple[float, ...]
    """Entropies in nats, one per token; empty if the solution did not come from a policy with entropies."""
    answer: str | None
    """The answer that was found in the text; None if the text has none."""
    is_correct: bool
    num_sampled_tokens: int
    """Tokens that were sampled for this solution; a prefix that it shares with an earlier solution counts for
    that one."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of a prefix, graded; both tuples have one entry per token, end token included.

    Both are empty if only the verdict was kept. `is_correct` judges the whole solution, prefix and completion
    together. ValueError if the tuples differ in length.
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
    """How good a step is, with the evidence for it."""

    value: float
    """The value of the step in [0, 1]."""
    num_correct: int
    """Right outcomes below the step."""
    num_total: int
    """All outcomes below the step."""
    effective_size: float
    """Kish's effective number of outcomes, (sum w)^2 / sum w^2; equals `num_total` if weights are uniform."""
    low: float
    """Lower end of the 95 % interval of `value`, in [0, 1]."""
    high: float


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution cut into steps, which join to its text without a separator, with one label per step."""

    problem_id: str
    question: str
    steps: tuple[str, ...]
    labels: tuple[Label, ...]
    is_correct: bool


class Policy(Protocol):
    """Continues text (seam 1)."""

    @property
    def name(self) -> str:
        """The name of the policy in a run's configuration; two policies that differ have different names."""
        ...

    @property
    def num_parameters(self) -> int | None:
        """The number of weights of the model; None if it is unknown."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a completion."""
        ...

    @property
    def max_length(self) -> int | None:
        """Largest number of tokens of prompt and completion together; None if there is no limit."""
        ...

    @property
    def entropy_bound(self) -> EntropyBound:
        """Whether entropies are exact, or which bound of them the policy reports; part of its name."""
        ...

    def encode_question(self, question: str) -> tuple[int, ...]:
        """The prompt's token ids, template included."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, without end tokens and other special tokens."""
        ...

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; joined they are `decode(token_ids)`.

        Special tokens are empty; a character split over several tokens belongs to the one that completes it.
        """
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order; it is empty for a prefix that ends in an end token."""
        ...

    def reset_cache(self) -> None:
        """Forget earlier calls, so that costs and rounding errors are those of a new policy."""
        ...


class RequestSource(Protocol):
    """The requests of a policy that is fed while it works."""

    def next(self, room: int) -> Sequence[Request]:
        """Up to `room` requests that are ready now.

        None of them means that nothing is ready now; a completion that is handed back may make more ready.
        """
        ...


class StreamingPolicy(Policy, Protocol):
    """A policy that can be fed while it works; see `forkpoint.policies.stream` for those that cannot."""

    def stream(self, source: RequestSource) -> Iterator[tuple[Request, Completion]]:
        """The completions of the requests that `source` gives, each with its request, in any order.

        The policy pulls requests whenever it has room for some. Whoever iterates takes in a completion before
        the policy pulls again. The stream ends when nothing is in flight and the source gives nothing.
        """
        ...


class Scorer(Protocol):
    """Scores steps (seam 2)."""

    @property
    def name(self) -> str:
        """The name of the scorer; two scorers that differ have different names."""
        ...

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        """One score in [0, 1] per step of each solution; `questions` and `steps` run in parallel."""
        ...
