"""Search step by step with a PRM: beam search, and diverse verifier tree search (DVTS).

A round samples M continuations of every beam up to the end of the next step, the PRM scores them, and each
group of beams keeps its best. Beam search is one group of N/M beams. DVTS is N/M groups of one beam each: no
subtree can displace another, and a subtree is the same however many there are. A finished beam is not
continued and competes with its score; among equal scores a finished beam comes first, then the earlier one.
Equal texts each keep a place: a text that was drawn often is likely, and gets as many continuations.

Invariant: a result depends only on the policy, the PRM, the problem and the configuration. Problems are
searched side by side, with one call of the policy per chunk of tokens and one of the PRM per round, and do
not affect each other. With one beam and one sample per beam, the search is plain sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.grading.ends import graded
from forkpoint.policies.context import room_after
from forkpoint.records import Cost, Policy, Problem
from forkpoint.search.beam import ROOT, Beam, Growth, grow
from forkpoint.search.config import SearchConfig
from forkpoint.search.guide import Guide, Readings
from forkpoint.search.result import Found, SearchResult, SearchTokens
from forkpoint.select import Aggregate, aggregate


def search_beams(
    policy: Policy, problems: Sequence[Problem], guide: Guide, config: SearchConfig
) -> list[SearchResult]:
    """Beam search: each round keeps the best N/M continuations.

    Raises ValueError if the PRM does not read lines.
    """
    return _search_steps(policy, problems, guide, config, num_groups=1, width=config.num_kept)


def search_subtrees(
    policy: Policy, problems: Sequence[Problem], guide: Guide, config: SearchConfig
) -> list[SearchResult]:
    """DVTS: each of N/M subtrees keeps the best of M continuations.

    Raises ValueError if the PRM does not read lines.
    """
    return _search_steps(policy, problems, guide, config, num_groups=config.num_kept, width=1)


def _search_steps(
    policy: Policy,
    problems: Sequence[Problem],
    guide: Guide,
    config: SearchConfig,
    num_groups: int,
    width: int,
) -> list[SearchResult]:
    if guide.prm_format.segmentation != "newline":
        raise ValueError(
            "beam and dvts need a PRM of lines, whose ends can be seen; "
            f"this one reads {guide.prm_format.segmentation} steps: choose best-of-n, vote or majority"
        )
    searches = [_StepSearch(policy, problem, config, num_groups, width) for problem in problems]
    for _ in range(config.max_steps):
        going = [search for search in searches if not search.is_done]
        if not going:
            break
        grow(policy, [growth for search in going for growth in search.start_round()], config)
        for search in going:
            search.end_round()
        guide.read([(search.readings, beam.draft) for search in going for beam in search.beams])
        for search in going:
            search.prune(config.aggregate or guide.prm_format.aggregate)
    ends = graded(problems, [["".join(beam.draft.steps) for beam in search.beams] for search in searches])
    results = []
    for search, ends_of_problem in zip(searches, ends, strict=True):
        found = tuple(
            Found(
                steps=beam.draft.steps,
                scores=search.readings.scores[beam.draft.steps],
                num_tokens=len(beam.token_ids),
                is_finished=beam.finish == "stop",
                end=end,
            )
            for beam, end in zip(search.beams, ends_of_problem, strict=True)
        )
        results.append(SearchResult(search.problem, found, SearchTokens.of(search.cost, search.readings)))
    return results


class _StepSearch:
    """The beams of one problem, in groups."""

    def __init__(
        self, policy: Policy, problem: Problem, config: SearchConfig, num_groups: int, width: int
    ) -> None:
        prompt_ids = policy.encode_question(problem.question)
        self.problem, self.readings, self.cost = problem, Readings(problem.question, prompt_ids), Cost()
        self._prompt_ids, self._room = prompt_ids, room_after(policy, prompt_ids, config.max_tokens)
        self._branching, self._width = config.branching, width
        self._groups = [[ROOT] * width for _ in range(num_groups)]
        self._growing: list[list[Growth]] = []

    @property
    def beams(self) -> list[Beam]:
        return [beam for group in self._groups for beam in group]

    @property
    def is_done(self) -> bool:
        return all(beam.finish for beam in self.beams)

    def start_round(self) -> list[Growth]:
        """Begin M continuations of every beam that is not finished."""
        self._growing = [
            [
                Growth(self._prompt_ids, self._room, beam, slot, is_first=slot % self._branching == 0)
                for beam_idx, beam in enumerate(group, start=group_idx * self._width)
                if beam.finish is None
                for slot in range(beam_idx * self._branching, (beam_idx + 1) * self._branching)
            ]
            for group_idx, group in enumerate(self._groups)
        ]
        return [growth for growths in self._growing for growth in growths]

    def end_round(self) -> None:
        """Replace beams by their continuations; finished beams stay."""
        for group_idx, growths in enumerate(self._growing):
            finished = [beam for beam in self._groups[group_idx] if beam.finish]
            self._groups[group_idx] = [*finished, *(growth.beam for growth in growths)]
            self.cost = sum((growth.cost for growth in growths), self.cost)

    def prune(self, how: Aggregate) -> None:
        """Keep the best beams of every group."""

        def rank(beam: Beam) -> tuple[float, bool]:
            return -aggregate(self.readings.scores[beam.draft.steps], how), beam.finish is None

        self._groups = [sorted(group, key=rank)[: self._width] for group in self._groups]
