"""Independent samples of the prompt, read by the PRM when they are whole: what best-of-N and votes choose from.

Invariant: the samples are those that `rollouts.sample` draws with the same settings, whatever PRM reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.outcomes import Path, graded, paths_of
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Policy, Problem
from forkpoint.rollouts import RolloutConfig, sample
from forkpoint.search.config import InferenceConfig
from forkpoint.search.guide import Draft, Guide, Readings
from forkpoint.search.result import Found, SearchResult, SearchTokens


def search_samples(policy: Policy, problems: Sequence[Problem], guide: Guide, config: InferenceConfig) -> list[SearchResult]:
    """N samples per problem with their step scores, steps cut as the PRM's are."""
    prompts = [policy.encode_question(problem.question) for problem in problems]
    rollouts = RolloutConfig(config.num_samples, config.temperature, config.top_p, config.max_tokens, config.seed)
    sampled = sample(policy, prompts, rollouts, [config.room(policy, len(prompt_ids)) for prompt_ids in prompts])
    paths = [paths_of(policy, completions) for completions, _ in sampled]
    readings = [Readings(problem.question, prompt_ids) for problem, prompt_ids in zip(problems, prompts, strict=True)]
    drafts = [[_draft(path, guide.prm_format) for path in its_paths] for its_paths in paths]
    guide.read([(its_readings, draft) for its_readings, its_drafts in zip(readings, drafts, strict=True) for draft in its_drafts])
    ends = graded(problems, [[path.text for path in its_paths] for its_paths in paths])
    results = []
    for problem, its_readings, its_drafts, its_paths, its_ends, (_, cost) in zip(
        problems, readings, drafts, paths, ends, sampled, strict=True
    ):
        found = tuple(
            Found(draft.steps, its_readings.scores[draft.steps], len(path.completion), path.completion.finish == "stop", end)
            for draft, path, end in zip(its_drafts, its_paths, its_ends, strict=True)
        )
        results.append(SearchResult(problem, found, SearchTokens.of(cost, its_readings)))
    return results


def _draft(path: Path, prm_format: PRMFormat) -> Draft:
    steps, _ = path.steps(prm_format.segmentation, prm_format.rule)
    num_tokens = len(path.completion) - (path.completion.finish == "stop")  # the end token has no text to read
    return Draft(steps, path.completion.token_ids[:num_tokens], path.token_texts[:num_tokens])
