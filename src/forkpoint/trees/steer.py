"""Grow trees with a score in view: P-EDU prunes forks, MCTS-EDU chooses them (EDU-PRM, arXiv 2503.22233).

`prune_below` keeps an anchor from being forked if the PRM scores a complete step before it too low.
`expand="mcts"` spends the leaf budget by value and exploration instead of in a fixed order. The two are
independent, and neither changes what a fork is (`grow.py`). The paper gives the threshold (0.2) and the
names; when and how they are applied is our reading, stated at each place.

Invariant: a tree depends on the policy, the problem, the configuration and the scorer alone. Every leaf is
judged before the next anchor of its tree is chosen, whatever grows beside it, so batching changes neither
branches nor cost, and the tree of a smaller leaf budget is a prefix of the same tree. Scores are rounded to 6
decimals before they decide anything, so that the last bits of a float, which depend on the batch, choose no
fork.
A step's score must not depend on the steps after it, as with any causal PRM, so that one reading of a leaf
gives the scores of all its prefixes. Leaves are not scored for selection here, and `Cost` counts what it
counts for plain trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from forkpoint.checks import check_at_least, check_choice
from forkpoint.grading.ends import graded
from forkpoint.policies.jobs import done_jobs
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.scores import checked_scores
from forkpoint.records import NUM_DECIMALS, Cost, Policy, Problem, Scorer, ScoringCost, Tree
from forkpoint.select import AGGREGATES, Aggregate, aggregate
from forkpoint.steps import Path
from forkpoint.trees.frontier import Anchor, Leaf, OrderFrontier
from forkpoint.trees.grow import TreeConfig, TreeGrower
from forkpoint.trees.puct import PRIORS, Judgement, Prior, PUCTChooser

Expand = Literal["order", "mcts"]
EXPANDS: tuple[Expand, ...] = ("order", "mcts")
ValueSource = Literal["prm", "confidence", "outcome"]
VALUE_SOURCES: tuple[ValueSource, ...] = ("prm", "confidence", "outcome")

CountTokens = Callable[[str, Sequence[str]], int]
"""The tokens that a PRM reads to score the steps of a solution to a question, tags included."""


@dataclass(frozen=True)
class SteeringConfig:
    """How scores steer a tree; the default is the plain tree, for which no scorer is needed."""

    expand: Expand = "order"
    """How the next fork is chosen: order (by the tree's `order`), or mcts (by value and exploration, ignoring
    `order`)."""
    prune_below: float = 0.0
    """Score of a complete step below which P-EDU forks nothing after it (0.2 in the paper); 0 prunes
    nothing."""
    value: ValueSource = "prm"
    """Value of a leaf to mcts: prm (its score), confidence (its mean token probability), or outcome (its gold
    verdict: for labelling only, since an evaluation that reads gold answers measures nothing)."""
    aggregate: Aggregate = "last"
    """How step scores become one value if `value` is prm: last (the score of all that was read), min, prod,
    mean."""
    exploration: float = 1.0
    """Factor of the exploration term of mcts; 0 follows values alone."""
    prior: Prior = "policy"
    """Prior of the two sides of an anchor: policy (their tokens' probabilities, renormalised), or uniform."""

    def __post_init__(self) -> None:
        check_choice("expand", self.expand, EXPANDS)
        check_choice("value", self.value, VALUE_SOURCES)
        check_choice("aggregate", self.aggregate, AGGREGATES)
        check_choice("prior", self.prior, PRIORS)
        check_at_least(0, prune_below=self.prune_below, exploration=self.exploration)

    @property
    def needs_scorer(self) -> bool:
        """Whether the trees cannot be grown without a PRM."""
        return self.prune_below > 0 or (self.expand == "mcts" and self.value == "prm")

    @property
    def is_gold(self) -> bool:
        """Whether gold answers steer the trees: fit for labelling, unfit for any evaluation."""
        return self.expand == "mcts" and self.value == "outcome"


@dataclass(frozen=True)
class Steering:
    """How trees are steered, and by which PRM."""

    config: SteeringConfig
    scorer: Scorer | None = None
    prm_format: PRMFormat | None = None
    """The format that says how the PRM's steps are cut; None cuts at line ends."""
    count_tokens: CountTokens | None = None
    """Counts the tokens that the PRM reads. None counts the policy's own tokens and one tag per step, which
    is an estimate if the two tokenizers differ."""

    def identity(self) -> dict[str, Any]:
        """Everything that trees depend on besides the policy, the problem and the tree's configuration."""
        scorer = self.scorer.name if self.scorer and self.config.needs_scorer else None
        prm_format = asdict(self.prm_format) if self.prm_format and scorer else None
        return {"search": asdict(self.config), "scorer": scorer, "prm_format": prm_format}


@dataclass(frozen=True, slots=True)
class SteeredTree:
    """A tree grown with a score in view, and its cost."""

    tree: Tree
    cost: Cost
    """The cost of the policy."""
    scoring: ScoringCost
    """The cost of the PRM."""
    num_pruned: int
    """Anchors that were never forked because of their score. The leaf that fills the budget is not judged, so
    its anchors do not count."""

    def num_tokens(self, prm_weight: float = 1.0) -> float:
        """The cost as one number: sampled tokens plus `prm_weight` times the tokens that the PRM read."""
        return self.cost.sampled_tokens + prm_weight * self.scoring.tokens


def steer_trees(
    policy: Policy,
    problems: Sequence[Problem],
    config: TreeConfig,
    steering: Steering,
) -> list[SteeredTree]:
    """One tree per problem, steered by scores.

    Trees grow side by side, and leaves that wait for a judgement are scored together. A scorer that the
    search does not need is not called. A tree has fewer leaves than its budget if it runs out of anchors that
    are not pruned. Raises ValueError if a scorer is needed and missing, if a scorer of whole solutions is to
    prune, if scores are too few, too many or outside [0, 1], or if a prompt leaves no room in the policy's
    context; and whatever the scorer raises for a solution that it cannot read.
    """
    nursery = Nursery(policy, config, steering)
    trees = [nursery.begun(problem) for problem in problems]
    for _ in done_jobs(policy, enumerate(trees), nursery.settle):
        pass
    return [tree.result for tree in trees]


class Nursery:
    """Begins steered trees, and judges their leaves. Raises what `steer_trees` raises."""

    def __init__(self, policy: Policy, config: TreeConfig, steering: Steering) -> None:
        search, scorer = steering.config, steering.scorer
        if search.needs_scorer and scorer is None:
            raise ValueError(
                "pruning, and mcts with value 'prm', need a scorer; "
                "give one, or choose prune_below 0 and another value"
            )
        prm_format = steering.prm_format or PRMFormat()
        if search.prune_below > 0 and prm_format.segmentation == "solution":
            raise ValueError(
                "a scorer of whole solutions has no score for the steps before a fork; "
                "choose prune_below 0, or a PRM of steps"
            )
        self._policy, self._config, self._search = policy, config, search
        self._judge = _Judge(
            search, scorer if search.needs_scorer else None, prm_format, steering.count_tokens
        )

    def begun(self, problem: Problem) -> SteeredGrower:
        """A tree of which nothing is grown yet."""
        frontier = JudgedFrontier(_chooser(self._config, self._search), self._search.prune_below)
        return SteeredGrower(self._policy, problem, self._config, frontier)

    def settle(self, trees: Sequence[SteeredGrower]) -> None:
        """Judge the leaves that trees wait with, all together."""
        judged = self._judge([(tree.problem, len(tree.prompt_ids), tree.waiting_leaf) for tree in trees])
        for tree, (judgement, scoring) in zip(trees, judged, strict=True):
            tree.judge(judgement, scoring)


class SteeredGrower(TreeGrower):
    """Grows one tree; each of its leaves is judged before the next fork is chosen."""

    def __init__(
        self, policy: Policy, problem: Problem, config: TreeConfig, frontier: JudgedFrontier
    ) -> None:
        self.problem, self.prompt_ids = problem, policy.encode_question(problem.question)
        super().__init__(policy, self.prompt_ids, config, frontier)
        self._judged_frontier = frontier
        self._scoring = ScoringCost()

    @property
    def waiting_leaf(self) -> Leaf:
        """The leaf that is to be judged."""
        leaf = self._judged_frontier.waiting
        assert leaf is not None, "a tree that asks for nothing waits with a leaf"
        return leaf

    @property
    def result(self) -> SteeredTree:
        return SteeredTree(self.tree, self.cost, self._scoring, self._judged_frontier.num_pruned)

    def judge(self, judgement: Judgement, scoring: ScoringCost) -> None:
        """Take in the judgement of the waiting leaf."""
        self._judged_frontier.judge(judgement)
        self._scoring += scoring


class _Judge:
    """Judges leaves; callable with (problem, prompt tokens, leaf) items."""

    def __init__(
        self,
        search: SteeringConfig,
        scorer: Scorer | None,
        prm_format: PRMFormat,
        count_tokens: CountTokens | None,
    ) -> None:
        self._search, self._scorer = search, scorer
        self._format, self._count_tokens = prm_format, count_tokens

    def __call__(self, items: Sequence[tuple[Problem, int, Leaf]]) -> list[tuple[Judgement, ScoringCost]]:
        read = [self._steps(leaf) for _, _, leaf in items]
        questions = [problem.question for problem, _, _ in items]
        scores = self._scores(questions, [steps for steps, _ in read])
        values = self._values(items, scores)
        return [
            (Judgement(value, ends, leaf_scores), self._cost(question, num_prompt, leaf, steps, ends))
            for (_, num_prompt, leaf), question, (steps, ends), leaf_scores, value in zip(
                items, questions, read, scores, values, strict=True
            )
        ]

    def _steps(self, leaf: Leaf) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The steps to read and their ends: all if the value is needed, else those before the last anchor."""
        if self._scorer is None:
            return (), ()
        steps, ends = Path(leaf.path, leaf.token_texts).steps(self._format.segmentation, self._format.rule)
        if self._search.expand == "mcts" and self._search.value == "prm":
            return steps, ends
        num_steps = sum(end <= max(leaf.anchors, default=-1) for end in ends)
        return steps[:num_steps], ends[:num_steps]

    def _scores(self, questions: Sequence[str], steps: Sequence[tuple[str, ...]]) -> list[tuple[float, ...]]:
        scores: list[tuple[float, ...]] = [()] * len(steps)
        idxs = [idx for idx, steps_of_leaf in enumerate(steps) if steps_of_leaf]
        if not idxs:
            return scores
        assert self._scorer is not None, "steps are read only for a scorer"
        found = checked_scores(self._scorer, [questions[idx] for idx in idxs], [steps[idx] for idx in idxs])
        for idx, scores_of_leaf in zip(idxs, found, strict=True):
            scores[idx] = tuple(round(score, NUM_DECIMALS) for score in scores_of_leaf)
        return scores

    def _values(
        self, items: Sequence[tuple[Problem, int, Leaf]], scores: Sequence[tuple[float, ...]]
    ) -> list[float | None]:
        if self._search.expand == "order":
            return [None] * len(items)
        if self._search.value == "prm":
            return [aggregate(leaf_scores, self._search.aggregate) for leaf_scores in scores]
        if self._search.value == "confidence":
            return [confidence(leaf.path.logprobs) for _, _, leaf in items]
        problems = [problem for problem, _, _ in items]
        ends = graded(problems, [["".join(leaf.token_texts)] for _, _, leaf in items])
        return [
            float(end.is_correct and leaf.path.finish == "stop")
            for (_, _, leaf), (end,) in zip(items, ends, strict=True)
        ]

    def _cost(
        self, question: str, num_prompt: int, leaf: Leaf, steps: Sequence[str], ends: Sequence[int]
    ) -> ScoringCost:
        if not steps:
            return ScoringCost()
        if self._count_tokens:
            return ScoringCost(1, self._count_tokens(question, steps))
        has_end_token = leaf.path.finish == "stop" and ends[-1] == len(leaf.path)  # which has no text to read
        return ScoringCost(1, num_prompt + ends[-1] - has_end_token + len(steps))


def confidence(logprobs: Sequence[float]) -> float:
    """The geometric mean of token probabilities, given their natural logarithms; 1 for no tokens."""
    return round(math.exp(math.fsum(logprobs) / len(logprobs)), NUM_DECIMALS) if logprobs else 1.0


class Chooser(Protocol):
    """The part of a frontier that chooses the next fork, after leaves were judged and anchors pruned."""

    def add(self, leaf: Leaf, judgement: Judgement) -> None:
        """Open the leaf's anchors."""
        ...

    def pop(self) -> Anchor | None:
        """Close the anchor to fork next and return it; None if no anchor is open."""
        ...


class JudgedFrontier:
    """A `Frontier` whose anchors open when their leaf is judged, if all steps before them score high enough.

    Pruning is applied when a leaf is grown, before any of its anchors can be forked. An anchor is judged by
    the complete steps before it: a PRM of steps was not trained on incomplete ones, and the step in which the
    anchor lies is the one that the fork may still correct. The lowest of their scores counts, so all anchors
    after a pruned one are pruned too. An anchor in the first step counts as 1.
    """

    def __init__(self, chooser: Chooser, prune_below: float) -> None:
        self._chooser, self._prune_below = chooser, prune_below
        self.waiting: Leaf | None = None
        self.num_pruned = 0

    def add(self, leaf: Leaf) -> None:
        self.waiting = leaf

    def judge(self, judgement: Judgement) -> None:
        assert self.waiting is not None, "only a leaf that waits is judged"
        leaf, self.waiting = self.waiting, None
        kept = tuple(
            position
            for position in leaf.anchors
            if min(judgement.before(position), default=1.0) >= self._prune_below
        )
        self.num_pruned += len(leaf.anchors) - len(kept)
        self._chooser.add(replace(leaf, anchors=kept), judgement)

    @property
    def can_pop(self) -> bool:
        return self.waiting is None

    def pop(self) -> Anchor | None:
        assert self.waiting is None, "a leaf is judged before the next anchor is chosen"
        return self._chooser.pop()

    def sure(self) -> list[Anchor]:
        return []  # the next judgement may prune any of them, or prefer others

    def likely(self, num: int) -> list[Anchor]:
        return []


def _chooser(config: TreeConfig, search: SteeringConfig) -> Chooser:
    if search.expand == "mcts":
        return PUCTChooser(search.exploration, search.prior, search.aggregate)
    return _OrderChooser(OrderFrontier(config.order))


class _OrderChooser:
    """The `Chooser` that follows the order of the tree's configuration."""

    def __init__(self, frontier: OrderFrontier) -> None:
        self._frontier = frontier

    def add(self, leaf: Leaf, judgement: Judgement) -> None:
        self._frontier.add(leaf)

    def pop(self) -> Anchor | None:
        return self._frontier.pop()
