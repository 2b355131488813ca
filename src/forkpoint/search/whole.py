"""Searches whose solutions the PRM reads when they are complete: samples, leaves of an EDU tree, or both.

Invariant: samples and leaves are those that `solutions.sample` and `trees.grow` give with the same settings,
whatever PRM reads them. A PRM only decides how many samples there are, and the problems of one call do not
affect each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.grading.ends import End, graded
from forkpoint.labels.leaves import leaf_shares
from forkpoint.policies.context import room_after
from forkpoint.records import NUM_DECIMALS, Cost, Policy, Problem
from forkpoint.search.config import SearchConfig
from forkpoint.search.guide import Draft, Guide, Readings
from forkpoint.search.result import Found, SearchResult, SearchTokens
from forkpoint.select import vote_share
from forkpoint.solutions.outcomes import paths_of
from forkpoint.solutions.sample import RolloutConfig, sample
from forkpoint.steps import Path
from forkpoint.trees.grow import TreeConfig, grow_trees


class Gathering:
    """The solutions of one problem that were found so far."""

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
    """N samples per problem, with the scores of their steps; steps are cut as the PRM expects."""
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
    """An EDU tree of up to N leaves, then up to N samples until the vote is clear.

    Samples are drawn `draw` at a time; the vote is clear when its winner has the share `enough`.
    """
    gatherings = [Gathering(policy, problem) for problem in problems]
    _grow(policy, gatherings, guide, config)
    how = config.aggregate or guide.prm_format.aggregate

    def is_unclear(gathering: Gathering) -> bool:
        result = gathering.result()
        return vote_share(result.answers, result.votes(how, config.sharpness)) < config.enough

    unclear = gatherings
    for num_drawn in range(0, config.num_samples, config.draw):
        unclear = [gathering for gathering in unclear if is_unclear(gathering)]
        if not unclear:
            break
        _draw(policy, unclear, guide, config, min(config.draw, config.num_samples - num_drawn))
    return [gathering.result() for gathering in gatherings]


def _grow(policy: Policy, gatherings: Sequence[Gathering], guide: Guide, config: SearchConfig) -> None:
    """Grow a tree for each problem and add its leaves."""
    trees = TreeConfig(num_leaves=config.num_samples, tau=config.tau, max_tokens=config.max_tokens)
    grown = grow_trees(policy, [gathering.prompt_ids for gathering in gatherings], trees)
    arrivals = []
    for gathering, (tree, cost) in zip(gatherings, grown, strict=True):
        leaves = paths_of(policy, [tree.path(idx) for idx in range(tree.num_leaves)])
        weights = [round(share * tree.num_leaves, NUM_DECIMALS) for share in leaf_shares(tree)]
        arrivals.append(Arrivals(gathering, leaves, weights, cost))
    _take(arrivals, guide)


def _draw(
    policy: Policy, gatherings: Sequence[Gathering], guide: Guide, config: SearchConfig, num: int
) -> None:
    """Draw `num` more samples for each problem and add them."""
    rollouts = RolloutConfig(
        config.num_samples, config.temperature, config.top_p, config.max_tokens, config.seed
    )
    prompts = [gathering.prompt_ids for gathering in gatherings]
    rooms = [room_after(policy, prompt_ids, config.max_tokens) for prompt_ids in prompts]
    spans = [range(gathering.num_samples, gathering.num_samples + num) for gathering in gatherings]
    sampled = sample(policy, prompts, rollouts, rooms, spans)
    arrivals = []
    for gathering, (completions, cost) in zip(gatherings, sampled, strict=True):
        gathering.num_samples += num
        arrivals.append(Arrivals(gathering, paths_of(policy, completions), [1.0] * num, cost))
    _take(arrivals, guide)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """New solutions of one problem; `paths` and `weights` have one entry per solution."""

    gathering: Gathering
    paths: Sequence[Path]
    weights: Sequence[float]
    """The weights of the solutions in a policy-weighted vote."""
    cost: Cost

    def drafts(self, guide: Guide) -> list[Draft]:
        """The solutions as the PRM reads them."""
        return [_draft(path, guide) for path in self.paths]

    def found(self, drafts: Sequence[Draft], ends: Sequence[End]) -> list[Found]:
        """The solutions with the scores from the readings, and with the verdicts of the grader."""
        scores = self.gathering.readings.scores
        return [
            Found(
                steps=draft.steps,
                scores=scores[draft.steps],
                num_tokens=len(path.completion),
                is_finished=path.completion.finish == "stop",
                end=end,
                weight=weight,
            )
            for path, draft, end, weight in zip(self.paths, drafts, ends, self.weights, strict=True)
        ]


def _take(arrivals: Sequence[Arrivals], guide: Guide) -> None:
    """Have the new solutions of all problems read in one go and graded in another, and add them."""
    drafts = [new.drafts(guide) for new in arrivals]
    guide.read(
        [
            (new.gathering.readings, draft)
            for new, drafts_of_problem in zip(arrivals, drafts, strict=True)
            for draft in drafts_of_problem
        ]
    )
    ends = graded(
        [new.gathering.problem for new in arrivals], [[path.text for path in new.paths] for new in arrivals]
    )
    for new, drafts_of_problem, ends_of_problem in zip(arrivals, drafts, ends, strict=True):
        new.gathering.add(new.found(drafts_of_problem, ends_of_problem), new.cost)


def _draft(path: Path, guide: Guide) -> Draft:
    steps, _ = path.steps(guide.prm_format.segmentation, guide.prm_format.rule)
    completion = path.completion
    num_tokens = len(completion) - (completion.finish == "stop")  # the end token has no text to read
    return Draft(steps, completion.token_ids[:num_tokens], path.token_texts[:num_tokens])
