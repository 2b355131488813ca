"""`VLLMPolicy` against `LocalPolicy` in float32 on the same checkpoints, and against direct recomputation."""

from __future__ import annotations

import math
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from checkpoints import CHARACTERS, SPECIAL_TOKENS, make_model
from forkpoint.policies import LAB_POLICY
from forkpoint.policies.local import LocalPolicy
from forkpoint.policies.truncated import BOUNDS, Bound
from forkpoint.policies.vllm import ALL, VLLMPolicy
from forkpoint.problems import load_problems
from forkpoint.records import Completion, Request, Tree
from forkpoint.trees.grow import TreeConfig, grow_trees

CACHE_BYTES = 1 << 27
ROUNDING = 1e-4
NUM_TOPS = (2, 5, 20)


@pytest.fixture(scope="module")
def local(checkpoint: Path) -> LocalPolicy:
    return LocalPolicy.load(checkpoint, dtype="float32")


@pytest.fixture(scope="module")
def exact(checkpoint: Path) -> VLLMPolicy:
    return VLLMPolicy.load(checkpoint, top_logprobs=ALL, cache_bytes=CACHE_BYTES)


@pytest.fixture(scope="module")
def lab_local() -> LocalPolicy:
    return LocalPolicy.load(LAB_POLICY, dtype="float32")


@pytest.fixture(scope="module")
def lab_lower() -> VLLMPolicy:
    return VLLMPolicy.load(LAB_POLICY, cache_bytes=CACHE_BYTES)


@pytest.fixture(scope="module")
def lab_prompts(lab_local: LocalPolicy) -> list[tuple[int, ...]]:
    return [
        lab_local.encode_question(problem.question) for problem in load_problems("lab:test?num=40&seed=5")
    ]


def with_entropies(policy: VLLMPolicy, top_logprobs: int, bound: Bound = "lower") -> VLLMPolicy:
    """The same engine with other entropies."""
    return VLLMPolicy(
        policy._engine,
        policy._checkpoint,
        "shared",
        max_length=policy.max_length,
        top_logprobs=top_logprobs,
        entropy_bound=bound,
    )


def random_prefixes(
    num_prefixes: int, seed: int = 0, shortest: int = 1, longest: int = 90
) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    first, last = len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + len(CHARACTERS) - 1
    return [
        tuple(rng.randint(first, last) for _ in range(rng.randint(shortest, longest)))
        for _ in range(num_prefixes)
    ]


@torch.inference_mode()
def recompute(policy: LocalPolicy, request: Request, completion: Completion) -> torch.Tensor:
    """Return the log-probabilities of a completion, [T, V], from one forward pass without a cache."""
    ids = torch.tensor([request.prefix_ids + completion.token_ids])
    logits_T_V = policy.model(input_ids=ids, use_cache=False).logits[0, len(request.prefix_ids) - 1 : -1]
    logprobs_T_V: torch.Tensor = logits_T_V.double().log_softmax(-1)
    return logprobs_T_V


def entropies(logprobs_T_V: torch.Tensor) -> list[float]:
    values: list[float] = (-(logprobs_T_V.exp() * logprobs_T_V).sum(-1)).tolist()
    return values


def first_tie(completion: Completion) -> int:
    """Return the first position at which rounding may decide between two tokens, or the length."""
    gaps = [
        taken - other for taken, other in zip(completion.logprobs, completion.runner_up_logprobs, strict=True)
    ]
    return next((position for position, gap in enumerate(gaps) if gap < ROUNDING), len(gaps))


def assert_greedy_equal(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    """They agree token for token up to the first tie, and ties are rare."""
    num_ties = 0
    for ours, theirs in zip(found, expected, strict=True):
        end = first_tie(theirs)
        num_ties += end < len(theirs)
        if end == len(theirs):
            assert (ours.token_ids, ours.finish) == (theirs.token_ids, theirs.finish)
        assert ours.token_ids[:end] == theirs.token_ids[:end]
        assert ours.logprobs[:end] == pytest.approx(theirs.logprobs[:end], abs=ROUNDING)
        assert ours.runner_up_logprobs[:end] == pytest.approx(theirs.runner_up_logprobs[:end], abs=ROUNDING)
    assert num_ties <= len(expected) // 10


def test_greedy_completions_are_those_of_the_local_engine(local: LocalPolicy, exact: VLLMPolicy) -> None:
    requests = [Request(prefix, 60) for prefix in random_prefixes(60)]
    completions = local.generate(requests)
    assert {completion.finish for completion in completions} == {"stop", "length"}
    assert_greedy_equal(exact.generate(requests), completions)
    assert_greedy_equal(with_entropies(exact, 2).generate(requests), completions)


def test_greedy_solutions_of_the_lab_policy_are_those_of_the_local_engine(
    lab_local: LocalPolicy, lab_lower: VLLMPolicy, lab_prompts: list[tuple[int, ...]]
) -> None:
    requests = [Request(prompt, 160) for prompt in lab_prompts]
    assert_greedy_equal(lab_lower.generate(requests), lab_local.generate(requests))


def test_evidence_is_that_of_the_untruncated_distribution_at_temperature_1(
    local: LocalPolicy, exact: VLLMPolicy
) -> None:
    """Whatever the sampling temperature.

    The runner-up is the most probable token other than the sampled one.
    """
    rng = random.Random(2)
    requests = [
        Request(prefix, 50, rng.choice((0.0, 0.5, 1.0, 1.5)), rng.choice((1.0, 0.7)), seed=idx)
        for idx, prefix in enumerate(random_prefixes(40, seed=1))
    ]
    ways = set()
    for request, completion in zip(requests, exact.generate(requests), strict=True):
        logprobs_T_V = recompute(local, request, completion)
        taken_T_1, runner_up_T_1 = (
            torch.tensor(completion.token_ids)[:, None],
            torch.tensor(completion.runner_up_ids)[:, None],
        )
        others_T_V = logprobs_T_V.scatter(1, taken_T_1, -math.inf)
        assert completion.logprobs == pytest.approx(
            logprobs_T_V.gather(1, taken_T_1)[:, 0].tolist(), abs=ROUNDING
        )
        assert completion.entropies == pytest.approx(entropies(logprobs_T_V), abs=ROUNDING)
        assert completion.runner_up_logprobs == pytest.approx(others_T_V.amax(-1).tolist(), abs=ROUNDING)
        assert completion.runner_up_logprobs == pytest.approx(
            others_T_V.gather(1, runner_up_T_1)[:, 0].tolist(), abs=ROUNDING
        )
        is_ended = completion.token_ids[-1] in exact.eos_ids
        assert completion.finish == ("stop" if is_ended else "length")
        assert (is_ended or len(completion) == 50) and not set(completion.token_ids[:-1]) & exact.eos_ids
        ways.add(completion.finish)
    assert ways == {"stop", "length"}


@pytest.mark.parametrize("num_top", NUM_TOPS)
def test_the_two_bounds_hold_the_exact_entropy_at_every_position(
    local: LocalPolicy, exact: VLLMPolicy, num_top: int
) -> None:
    """Even if a sampled token is outside the top k."""
    requests = [
        Request(prefix, 50, temperature, seed=7)
        for prefix in random_prefixes(15, seed=3)
        for temperature in (0.0, 1.5)
    ]
    below, above = (with_entropies(exact, num_top, bound).generate(requests) for bound in BOUNDS)
    widths = []
    for request, low, high in zip(requests, below, above, strict=True):
        assert low.token_ids == high.token_ids
        for lowest, entropy, highest in zip(
            low.entropies, entropies(recompute(local, request, low)), high.entropies, strict=True
        ):
            assert lowest - ROUNDING <= entropy <= highest + ROUNDING
            widths.append(highest - lowest)
    assert max(widths) > 0.1


def structure(tree: Tree) -> list[tuple[int | None, int, tuple[int, ...], str]]:
    return [
        (branch.parent_idx, branch.fork, branch.completion.token_ids, branch.completion.finish)
        for branch in tree.branches
    ]


def has_tie(tree: Tree, config: TreeConfig) -> bool:
    """Return whether rounding may decide about a greedy token or an anchor anywhere in a tree."""
    own = [branch.completion for branch in tree.branches]
    forced = [branch.parent_idx is not None for branch in tree.branches]
    gaps = [
        taken - other
        for completion, start in zip(own, forced, strict=True)
        for taken, other in zip(
            completion.logprobs[start:], completion.runner_up_logprobs[start:], strict=True
        )
    ]
    near_tau = any(
        abs(entropy - config.tau) < ROUNDING for completion in own for entropy in completion.entropies
    )
    return near_tau or min(gaps) < ROUNDING


def test_exact_entropies_grow_the_trees_of_the_local_engine(local: LocalPolicy, exact: VLLMPolicy) -> None:
    config, prompts = (
        TreeConfig(num_leaves=8, tau=2.5, max_tokens=40),
        random_prefixes(12, seed=4, shortest=40),
    )
    expected = [tree for tree, _ in grow_trees(local, prompts, config)]
    grown = grow_trees(exact, prompts, config)
    compared = [
        (tree, theirs)
        for (tree, _), theirs in zip(grown, expected, strict=True)
        if not has_tie(theirs, config)
    ]
    assert len(compared) >= 10 and sum(tree.num_leaves for tree, _ in compared) > 6 * len(compared)
    for tree, theirs in compared:
        assert structure(tree) == structure(theirs)
    # trees count what a cache of the problem alone would save, not the blocks that the engine found
    for tree, _ in grown:
        for branch in tree.branches:
            num_prefix_tokens = len(tree.prompt_ids) + branch.fork + 1
            if branch.parent_idx is not None and len(branch.completion) > 1:
                assert branch.completion.num_reused_tokens == num_prefix_tokens - 1 > 0


@pytest.mark.parametrize(("num_top", "is_decided"), [(20, True), (7, False)])
def test_bounds_grow_the_same_trees_wherever_they_decide_every_anchor(
    lab_local: LocalPolicy,
    lab_lower: VLLMPolicy,
    lab_prompts: list[tuple[int, ...]],
    num_top: int,
    is_decided: bool,
) -> None:
    """A position is open if its interval contains tau.

    A tree without open positions is the tree of exact entropies.
    """
    config, prompts = TreeConfig(num_leaves=5, max_tokens=160), lab_prompts[:12]
    expected = [tree for tree, _ in grow_trees(lab_local, prompts, config)]
    lower, upper = (
        [tree for tree, _ in grow_trees(with_entropies(lab_lower, num_top, bound), prompts, config)]
        for bound in BOUNDS
    )
    trees = [trees for trees in zip(expected, lower, upper, strict=True) if not has_tie(trees[0], config)]
    closed = [(theirs, low, high) for theirs, low, high in trees if not num_open(low, high, config.tau)]
    assert len(trees) >= 10 and sum(theirs.num_leaves for theirs, _, _ in trees) > 3 * len(trees)
    assert len(closed) == len(trees) if is_decided else 0 < len(closed) < len(trees)
    for theirs, low, high in closed:
        assert structure(low) == structure(high) == structure(theirs)


def num_open(low: Tree, high: Tree, tau: float) -> int:
    """Return the positions whose interval contains tau, on branches that the trees of both bounds share."""
    return sum(
        lowest <= tau < highest
        for ours, other in zip(low.branches, high.branches, strict=False)
        if ours.completion.token_ids == other.completion.token_ids
        for lowest, highest in zip(ours.completion.entropies, other.completion.entropies, strict=True)
    )


def test_equal_seeds_give_equal_samples_whatever_else_is_in_the_batch(exact: VLLMPolicy) -> None:
    """Alone, in reverse order, among greedy prompts, and among more prompts than fit in one engine step."""
    policy = with_entropies(exact, 5)
    seeds = (0, 1, 2**70, -1, -5)
    requests = [
        Request(prefix, 40, 1.0, seed=seed) for prefix in random_prefixes(3, seed=5) for seed in seeds
    ]
    alone = [policy.generate([request])[0].token_ids for request in requests]
    assert all(a != b for a, b in pairwise(alone[: len(seeds)]))
    greedy = [Request(prefix, 20) for prefix in random_prefixes(20, seed=6)]
    many = [Request(prefix, 20, 1.0, 0.5) for prefix in random_prefixes(100, seed=7, shortest=80)]
    for crowd in (requests, requests[::-1], [*greedy, *requests], [*many, *requests], [*requests, *many]):
        policy.reset_cache()
        completions = dict(zip(crowd, policy.generate(crowd), strict=True))
        assert [completions[request].token_ids for request in requests] == alone


def test_sampling_frequencies_match_the_distribution(local: LocalPolicy, exact: VLLMPolicy) -> None:
    """Pearson's statistic of 3,000 first tokens, one per seed, is below its 99.9 % point."""
    prefix, num_samples, temperature = random_prefixes(1)[0], 3000, 1.5
    requests = [Request(prefix, 1, temperature, seed=seed) for seed in range(num_samples)]
    counts = Counter(completion.token_ids[0] for completion in with_entropies(exact, 2).generate(requests))
    with torch.inference_mode():
        probs_V = (
            local.model(input_ids=torch.tensor([prefix])).logits[0, -1].double() / temperature
        ).softmax(-1)
    expected = {
        token_id: num_samples * p for token_id, p in enumerate(probs_V.tolist()) if num_samples * p >= 5
    }
    statistic = sum((counts[token_id] - mean) ** 2 / mean for token_id, mean in expected.items())
    freedom = len(expected)
    assert freedom >= 10
    # the Wilson-Hilferty approximation
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_reset_cache_forgets_prefixes(exact: VLLMPolicy) -> None:
    requests = [Request(prefix, 5) for prefix in random_prefixes(3, seed=8, shortest=70)]
    exact.reset_cache()
    for expected in (0, 64):
        assert [completion.num_reused_tokens for completion in exact.generate(requests)] == [expected] * 3
    exact.reset_cache()
    assert [completion.num_reused_tokens for completion in exact.generate(requests)] == [0] * 3


def test_nothing_follows_a_prefix_that_ends_in_an_end_token(exact: VLLMPolicy) -> None:
    prefixes = random_prefixes(3)
    requests = [Request(prefixes[0], 5), Request((*prefixes[1], 1), 5), Request((1, *prefixes[2]), 5)]
    completions = exact.generate(requests)
    assert completions[1] == Completion((), (), (), (), (), "stop")
    assert [len(completions[idx]) for idx in (0, 2)] == [5, 5]
    assert exact.generate(requests[1:2]) == completions[1:2]
    assert exact.generate([]) == []


def test_more_tokens_than_positions_is_an_error_with_both_numbers(exact: VLLMPolicy) -> None:
    assert exact.max_length == 256
    assert len(exact.generate([Request((7,) * 200, 56)])) == 1
    with pytest.raises(ValueError, match=r"200 tokens and max_tokens 57 .* 256 positions"):
        exact.generate([Request((7,) * 200, 57)])


def test_it_reads_and_writes_text_as_the_local_engine_does(local: LocalPolicy, exact: VLLMPolicy) -> None:
    ids = exact.encode_question("Tom's 12 cats <eos>")
    assert (ids, exact.eos_ids, exact.num_parameters) == (
        local.encode_question("Tom's 12 cats <eos>"),
        local.eos_ids,
        local.num_parameters,
    )
    assert exact.decode((*ids, 1)) == local.decode((*ids, 1))
    assert exact.token_texts((*ids, 1)) == local.token_texts((*ids, 1))


def test_the_name_is_the_local_one_with_engine_and_entropies(
    local: LocalPolicy, exact: VLLMPolicy, lab_local: LocalPolicy, lab_lower: VLLMPolicy
) -> None:
    assert (exact.name, exact.entropy_bound) == (f"{local.name}-vllm-exact", local.entropy_bound)
    assert (lab_lower.name, lab_lower.entropy_bound) == (f"{lab_local.name}-vllm-top20-lower", "lower")


def test_a_pickled_policy_is_loaded_again_as_it_was(
    checkpoint: Path, tmp_path: Path, exact: VLLMPolicy
) -> None:
    copy = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copy)
    policy = VLLMPolicy.load(
        copy,
        template="Q: {question}",
        top_logprobs=5,
        entropy_bound="upper",
        max_length=64,
        cache_bytes=CACHE_BYTES,
        block_size=64,
    )
    request, pickled = Request(random_prefixes(1)[0][:30], 30, 1.0, seed=1), pickle.dumps(policy)
    again = pickle.loads(pickled)
    assert again.generate([request]) == policy.generate([request])
    assert (again.name, again.max_length, again.entropy_bound) == (policy.name, 64, "upper")
    assert again.encode_question("?") == policy.encode_question("?") != exact.encode_question("?")
    make_model("qwen2", seed=1, hidden_size=128).save_pretrained(copy)
    with pytest.raises(ValueError, match="load the policy again"):
        pickle.loads(pickled)
    with pytest.raises(TypeError, match="made of a running engine"):
        pickle.dumps(with_entropies(exact, 2))


def test_wrong_options_are_errors_that_say_what_is_accepted(checkpoint: Path, tmp_path: Path) -> None:
    for top_logprobs in (0, 1, -2, 1000):
        with pytest.raises(
            ValueError, match=rf"top_logprobs must be -1 .* or 2 to \d+; {top_logprobs} was given"
        ):
            VLLMPolicy.load(checkpoint, top_logprobs=top_logprobs)
    with pytest.raises(ValueError, match="entropy_bound 'middle' is unknown; choose from lower, upper"):
        VLLMPolicy.load(checkpoint, entropy_bound="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype 'int8' is unknown"):
        VLLMPolicy.load(checkpoint, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="holds no model"):
        VLLMPolicy.load(tmp_path)
