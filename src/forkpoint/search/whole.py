"""Searches whose solutions are read when they are whole: samples, the leaves of an EDU tree, or a tree and then samples.

Invariant: samples and leaves are those that `rollouts.sample` and `tree.grow_trees` give with the same settings, whatever PRM
reads them; a PRM decides only how many samples there are, and a problem's do not depend on those searched beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.grading.ends import graded
from forkpoint.labels.leaves import leaf_shares
from forkpoint.policies.context import room_after
from forkpoint.records import Completion, Cost, Policy, Problem
from forkpoint.search.config import SearchConfig
from forkpoint.search.guide import Draft, Guide, Readings
from forkpoint.search.result import Found, SearchResult, SearchTokens
from forkpoint.select import vote_share
from forkpoint.solutions.outcomes import paths_of
from forkpoint.solutions.sample import RolloutConfig, sample
from forkpoint.steps import Path
from forkpoint.trees.grow import TreeConfig, grow_trees


class Gathering:
    """The solutions of one problem, as they come in."""

    def __init__(self, policy: Policy, problem: Problem) -> None:
        self.problem = problem
        self.prompt_ids = policy.encode_question(problem.question)
        self.readings = Readings(problem.question, self.prompt_ids)
        self.num_samples = 0
        self._cost = Cost()
        self._found: list[Found] = []

    def add(self, found: Sequence[Found], cost: Cost) -> None:
        self._found += found
        self._cost += cost

    def result(self) -> SearchResult:
        return SearchResult(self.problem, tuple(self._found), SearchTokens.of(self._cost, self.readings))


def search_samples(
    policy: Policy, problems: Sequence[Problem], guide: Guide, config: SearchConfig
) -> list[SearchResult]:
    """N samples per problem with their step scores, steps cut as the PRM's are."""
    gatherings = [Gathering(policy, problem) for problem in problems]
    _draw(policy, gatherings, guide, config, config.num_samples)
    return [gathering.result() for gathering in gatherings]


def search_tree(
    policy: Policy, problems: Sequence[Problem], guide: Guide, config: SearchConfig
) -> list[SearchResult]:
    """Up to N leaves of an EDU tree per problem (arXiv 2503.22233)."""
    gatherings = [Gathering(policy, problem) for problem in problems]
    _grow(policy, gatherings, guide, config)
    return [gathering.result() for gathering in gatherings]


def search_adaptive(
    policy: Policy, problems: Sequence[Problem], guide: Guide, config: SearchConfig
) -> list[SearchResult]:
    """An EDU tree of up to N leaves; then samples, `draw` at a time and N at most, until the vote's winner has `enough` of it."""
    gatherings = [Gathering(policy, problem) for problem in problems]
    _grow(policy, gatherings, guide, config)
    how = config.aggregate or guide.prm_format.aggregate

    def is_unclear(gathering: Gathering) -> bool:
        result = gathering.result()
        return vote_share(result.answers, result.votes(how, config.sharpness)) < config.enough

    unclear = gatherings
    while unclear := [its for its in unclear if its.num_samples < config.num_samples and is_unclear(its)]:
        _draw(policy, unclear, guide, config, min(config.draw, config.num_samples - unclear[0].num_samples))
    return [gathering.result() for gathering in gatherings]


def _grow(policy: Policy, gatherings: Sequence[Gathering], guide: Guide, config: SearchConfig) -> None:
    trees = TreeConfig(num_leaves=config.num_samples, tau=config.tau, max_tokens=config.max_tokens)
    grown = grow_trees(policy, [gathering.prompt_ids for gathering in gatherings], trees)
    completed = [([tree.path(idx) for idx in range(tree.num_leaves)], cost) for tree, cost in grown]
    _take(
        policy,
        gatherings,
        guide,
        completed,
        [[round(share * tree.num_leaves, 6) for share in leaf_shares(tree)] for tree, _ in grown],
    )


def _draw(
    policy: Policy, gatherings: Sequence[Gathering], guide: Guide, config: SearchConfig, num: int
) -> None:
    """`num` more samples of each."""
    rollouts = RolloutConfig(
        config.num_samples, config.temperature, config.top_p, config.max_tokens, config.seed
    )
    prompts = [gathering.prompt_ids for gathering in gatherings]
    spans = [range(gathering.num_samples, gathering.num_samples + num) for gathering in gatherings]
    sampled = sample(
        policy,
        prompts,
        rollouts,
        [room_after(policy, prompt_ids, config.max_tokens) for prompt_ids in prompts],
        spans,
    )
    for gathering in gatherings:
        gathering.num_samples += num
    _take(policy, gatherings, guide, sampled, [[1.0] * num] * len(gatherings))


def _take(
    policy: Policy,
    gatherings: Sequence[Gathering],
    guide: Guide,
    completed: Sequence[tuple[Sequence[Completion], Cost]],
    weights: Sequence[Sequence[float]],
) -> None:
    """Read and grade what came for each problem, all in one go; `weights` are those of the solutions' votes."""
    paths = [paths_of(policy, completions) for completions, _ in completed]
    drafts = [[_draft(path, guide) for path in its_paths] for its_paths in paths]
    guide.read(
        [
            (gathering.readings, draft)
            for gathering, its in zip(gatherings, drafts, strict=True)
            for draft in its
        ]
    )
    ends = graded(
        [gathering.problem for gathering in gatherings],
        [[path.text for path in its_paths] for its_paths in paths],
    )
    for gathering, its_paths, its_drafts, its_ends, (_, cost), its in zip(
        gatherings, paths, drafts, ends, completed, weights, strict=True
    ):
        scores = gathering.readings.scores
        found = [
            Found(
                draft.steps,
                scores[draft.steps],
                len(path.completion),
                path.completion.finish == "stop",
                end,
                weight,
            )
            for path, draft, end, weight in zip(its_paths, its_drafts, its_ends, its, strict=True)
        ]
        gathering.add(found, cost)


def _draft(path: Path, guide: Guide) -> Draft:
    steps, _ = path.steps(guide.prm_format.segmentation, guide.prm_format.rule)
    num_tokens = len(path.completion) - (
        path.completion.finish == "stop"
    )  # the end token has no text to read
    return Draft(steps, path.completion.token_ids[:num_tokens], path.token_texts[:num_tokens])
