"""`LocalPolicy` agrees with `generate` of transformers, with plain recomputation and with closed forms."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from checkpoints import CHARACTERS, SPECIAL_TOKENS, make_checkpoint, make_model, make_tokenizer
from forkpoint.policies import load_policy
from forkpoint.policies.decoding import StreamDecoder
from forkpoint.policies.kv_rows import BLOCK, KVRows, probe
from forkpoint.policies.local import LocalPolicy
from forkpoint.policies.prefix_cache import PrefixCache
from forkpoint.policies.sampling import random_key, sample, take, uniforms
from forkpoint.policies.stream import ListSource, in_order
from forkpoint.records import Completion, Request

pytestmark = pytest.mark.slow

ARCHITECTURES = ("qwen2", "llama", "gpt2")
ROUNDINGS = 128
"""The bound for the error of a float32 logit, in units of 2**-23 of the largest logit.

A logit is the end of a chain of sums: with a hidden size of 32, an inner size of 64 and up to 256 columns,
the sums on the longest path through 2 layers have 880 terms together. Errors of random sign add up to about
30 units, and the layers amplify them. With the kernels for SSE 4.2, AVX2 and AVX-512, at most 40 were seen.
"""
LARGEST_LOGIT = 32.0
"""A bound for the logits of the models of these tests, checked when they are recomputed."""
TOLERANCE = 2 * ROUNDINGS * 2.0**-23 * LARGEST_LOGIT
"""The bound for the error of a log-probability in float32: that of its logit and that of the normalizer."""
KERNELS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
"""Environment variables that choose the kernels of torch, oneDNN and MKL. MKL takes its own choice on
processors that Intel has not made."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def make_policy(
    architecture: str = "qwen2", *, batch_size: int = 64, cache_bytes: int = 1 << 24, **changes: Any
) -> LocalPolicy:
    model = make_model(architecture, **changes)
    return LocalPolicy(model, make_tokenizer(), architecture, batch_size=batch_size, cache_bytes=cache_bytes)


def random_prefixes(num_prefixes: int, seed: int = 0, longest: int = 90) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    first, last = len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + len(CHARACTERS) - 1
    return [
        tuple(rng.randint(first, last) for _ in range(rng.randint(1, longest))) for _ in range(num_prefixes)
    ]


def greedy_reference(policy: LocalPolicy, prefix: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    """What transformers' own `generate` adds to a prefix."""
    model: Any = policy.model
    ids = torch.tensor([prefix])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
    )
    return tuple(output[0, len(prefix) :].tolist())


def mixed_requests(num_requests: int = 40) -> list[Request]:
    """Unequal lengths, repeated prefixes, greedy and sampled, some truncated."""
    rng = random.Random(1)
    prefixes = random_prefixes(num_requests // 2) * 2
    return [
        Request(
            prefix,
            rng.choice((1, 5, 40, 100)),
            rng.choice((0.0, 0.7, 1.0, 1.5)),
            rng.choice((1.0, 1.0, 0.8)),
            seed=idx,
        )
        for idx, prefix in enumerate(prefixes)
    ]


def assert_same(first: Sequence[Completion], second: Sequence[Completion]) -> None:
    for a, b in zip(first, second, strict=True):
        assert (a.token_ids, a.runner_up_ids, a.finish) == (b.token_ids, b.runner_up_ids, b.finish)
        for field in ("logprobs", "entropies", "runner_up_logprobs"):
            assert getattr(a, field) == pytest.approx(getattr(b, field), abs=TOLERANCE)


@torch.inference_mode()
def assert_exact_up_to_rounding(
    architecture: str, requests: Sequence[Request], completions: Sequence[Completion]
) -> None:
    """Every token is the one that float64 takes after the tokens before it, and the numbers agree.

    Only a near tie may go the other way: logits within the bound of each other, or a random number that is
    as close to the border between two tokens.
    """
    model = make_model(architecture).double().eval()  # type: ignore[no-untyped-call]
    for request, completion in zip(requests, completions, strict=True):
        token_ids = completion.token_ids
        ids = torch.tensor([request.prefix_ids + token_ids])
        logits_T_V = model(input_ids=ids, use_cache=False).logits[0, len(request.prefix_ids) - 1 : -1]
        assert logits_T_V.abs().max() <= LARGEST_LOGIT
        logprobs_T_V = logits_T_V.log_softmax(-1)
        taken_T = torch.tensor(token_ids)
        others_T_V = logprobs_T_V.scatter(1, taken_T[:, None], -math.inf)
        runner_up_logprobs_T = others_T_V[range(len(token_ids)), completion.runner_up_ids]
        assert (others_T_V.amax(-1) - runner_up_logprobs_T).max() <= TOLERANCE
        numbers = {
            "logprobs": logprobs_T_V.gather(1, taken_T[:, None])[:, 0],
            "entropies": -(logprobs_T_V.exp() * logprobs_T_V).sum(-1),
            "runner_up_logprobs": runner_up_logprobs_T,
        }
        for field, exact_T in numbers.items():
            assert getattr(completion, field) == pytest.approx(exact_T.tolist(), abs=TOLERANCE)
        if request.temperature == 0:
            assert (logprobs_T_V.amax(-1) - numbers["logprobs"]).max() <= TOLERANCE
        else:
            assert (taken_by_float64(request, logits_T_V) == taken_T).any(dim=0).all()


def taken_by_float64(request: Request, logits_T_V: torch.Tensor) -> torch.Tensor:
    """The tokens that a request may sample at each position, [9, T].

    The random number and `top_p` stay, or move as far as an error of the logits moves the cumulative
    distribution.
    """
    num_tokens, moved = len(logits_T_V), TOLERANCE / request.temperature
    uniforms_T = uniforms(torch.full((num_tokens,), random_key(request.seed)), torch.arange(num_tokens))
    temperatures_T = torch.full((num_tokens,), request.temperature)
    return torch.stack(
        [
            sample(
                logits_T_V,
                temperatures_T,
                torch.full_like(uniforms_T, request.top_p + top_p_moved if request.top_p < 1 else 1.0),
                (uniforms_T + moved_by).clamp(0, 1 - 2**-52),
            )
            for moved_by in (0.0, -moved, moved)
            for top_p_moved in (0.0, -moved, moved)
        ]
    )


@torch.inference_mode()
def recompute(policy: LocalPolicy, request: Request, completion: Completion) -> Completion:
    """The evidence of a completion from one forward pass over all of it, without a cache."""
    ids = torch.tensor([request.prefix_ids + completion.token_ids])
    first = len(request.prefix_ids) - 1
    logprobs_T_V = policy.model(input_ids=ids, use_cache=False).logits[0, first:-1].double().log_softmax(-1)
    taken_T = torch.tensor(completion.token_ids)
    others_T_V = logprobs_T_V.scatter(1, taken_T[:, None], -math.inf)
    return replace(
        completion,
        logprobs=tuple(logprobs_T_V.gather(1, taken_T[:, None])[:, 0].tolist()),
        entropies=tuple((-(logprobs_T_V.exp() * logprobs_T_V).sum(-1)).tolist()),
        runner_up_ids=tuple(others_T_V.argmax(-1).tolist()),
        runner_up_logprobs=tuple(others_T_V.amax(-1).tolist()),
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_token_for_token(architecture: str) -> None:
    policy = make_policy(architecture, batch_size=8)
    prefixes = random_prefixes(20)
    completions = policy.generate([Request(prefix, 60) for prefix in prefixes])
    for prefix, completion in zip(prefixes, completions, strict=True):
        assert completion.token_ids == greedy_reference(policy, prefix, 60)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_evidence_equals_straight_line_recomputation(architecture: str) -> None:
    policy = make_policy(architecture, batch_size=8)
    requests = mixed_requests()
    completions = policy.generate(requests)
    assert_same(completions, [recompute(policy, *pair) for pair in zip(requests, completions, strict=True)])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_size_changes_no_completion(architecture: str) -> None:
    """On any processor, every batch size is as close to exact arithmetic as float32 is.

    So the texts are equal as well, unless a near tie goes the other way, which at most one in ten may do.
    """
    requests = mixed_requests()
    alone = make_policy(architecture, batch_size=1, cache_bytes=0).generate(requests)
    assert_exact_up_to_rounding(architecture, requests, alone)
    for batch_size in (3, 64):
        policy = make_policy(architecture, batch_size=batch_size)
        for _ in range(2):  # the second time, all prefixes are in the cache
            together = policy.generate(requests)
            assert_exact_up_to_rounding(architecture, requests, together)
            same = [
                pair for pair in zip(together, alone, strict=True) if pair[0].token_ids == pair[1].token_ids
            ]
            assert len(same) >= 0.9 * len(requests)


def processor_flags() -> set[str]:
    """The kernels among `KERNELS` that this processor can run, as far as the system tells."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
    parts = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    return (words & {"avx2"}) | ({"avx512"} if parts <= words else set())


@pytest.mark.parametrize("kernels", KERNELS)
def test_batch_size_changes_no_completion_under_other_kernels(kernels: str) -> None:
    """In processes of their own, because torch and its libraries choose their kernels once.

    Kernels differ in whether a product of one row rounds like that of many.
    """
    if kernels not in ("default", *processor_flags()):
        pytest.skip(f"the processor has no {kernels}, which torch would use all the same")
    test = f"{__file__}::{test_batch_size_changes_no_completion.__name__}[llama]"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        command, env={**os.environ, **KERNELS[kernels]}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_order_of_requests_changes_no_completion() -> None:
    requests = mixed_requests()
    order = random.Random(0).sample(range(len(requests)), len(requests))
    shuffled = make_policy(batch_size=5).generate([requests[idx] for idx in order])
    in_order = make_policy(batch_size=5).generate(requests)
    assert_same(shuffled, [in_order[idx] for idx in order])


def test_rows_of_very_unequal_lengths_join_a_running_batch() -> None:
    short, long = (
        random_prefixes(6, longest=3),
        [prefix * 10 for prefix in random_prefixes(6, seed=1, longest=15)],
    )
    requests = [
        Request(prefix, max_tokens)
        for prefix, max_tokens in zip(short + long, [100, 2, 50, 3, 1, 9] * 2, strict=True)
    ]
    assert_same(
        make_policy(batch_size=2).generate(requests),
        make_policy(batch_size=1, cache_bytes=0).generate(requests),
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forks_reuse_their_parents_and_change_nothing(architecture: str) -> None:
    """A fork computes its forced token and at most the part of the parent that fills no whole block."""
    policy, fresh = make_policy(architecture), make_policy(architecture, cache_bytes=0)
    prefixes = random_prefixes(10)
    parents = policy.generate([Request(prefix, 60) for prefix in prefixes])
    forks = [
        Request(prefix + parent.token_ids[:position] + (parent.runner_up_ids[position],), 50)
        for prefix, parent in zip(prefixes, parents, strict=True)
        for position in range(0, len(parent), 7)
        if parent.runner_up_ids[position] not in policy.eos_ids
    ]
    completions = policy.generate(forks)
    assert_same(completions, fresh.generate(forks))
    known = {prefix: len(prefix) + len(parent) - 1 for prefix, parent in zip(prefixes, parents, strict=True)}
    for fork, completion in zip(forks, completions, strict=True):
        parent_length = next(
            length for prefix, length in known.items() if fork.prefix_ids[: len(prefix)] == prefix
        )
        assert completion.num_reused_tokens >= min(len(fork.prefix_ids) - 1, parent_length // BLOCK * BLOCK)


def test_completions_are_continued_wherever_they_end() -> None:
    """The last token taken was never computed, so it is not reused either, block border or not."""
    policy, fresh = make_policy(), make_policy(cache_bytes=0)
    prefixes = [(7, *range(10, 10 + length)) for length in range(2, 2 + 2 * BLOCK)]
    parents = policy.generate([Request(prefix, 40) for prefix in prefixes])
    assert {
        (len(prefix) + len(parent)) % BLOCK for prefix, parent in zip(prefixes, parents, strict=True)
    } >= {0, 1, 2}
    rest = [
        Request(prefix + parent.token_ids + (8, 9), 10)
        for prefix, parent in zip(prefixes, parents, strict=True)
    ]
    completions = policy.generate(rest)
    assert_same(completions, fresh.generate(rest))
    assert all(
        c.num_reused_tokens <= len(request.prefix_ids) - 3
        for c, request in zip(completions, rest, strict=True)
    )


def test_reuse_of_different_lengths_shares_a_batch_with_no_reuse() -> None:
    policy = make_policy()
    stem = (random_prefixes(1, longest=1)[0] * 80)[:80]
    policy.generate([Request(stem, 1)])
    requests = [
        Request(stem[:length] + tail, 30)
        for length in (0, 5, 16, 37, 80)
        for tail in random_prefixes(3, seed=length)
    ]
    completions = policy.generate(requests)
    assert {min(completion.num_reused_tokens, 80) for completion in completions} >= {0, 5, 16, 37, 80}
    assert_same(completions, make_policy(cache_bytes=0).generate(requests))


def test_torchs_own_attention_and_loose_buffers_give_the_same_completions() -> None:
    """What runs on other devices than a CPU."""
    requests = mixed_requests()
    policy = make_policy(batch_size=8)
    expected = policy.generate(requests)
    policy.model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        probed = probe(policy.model)
        assert probed is not None
        rows, prefixes = KVRows(policy.model, *probed), PrefixCache(1 << 24, *probed)
        rows._is_tight = False
        for _ in range(2):
            decoder = StreamDecoder(rows, prefixes, policy.eos_ids, 8, policy.model.device)
            assert_same(in_order(requests, decoder.stream(ListSource(requests))), expected)


def test_models_without_a_key_value_cache_are_refused() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, state_size=4))
    with pytest.raises(ValueError, match="MambaForCausalLM takes no past_key_values"):
        LocalPolicy(model, make_tokenizer(), "mamba")


def test_equal_prefixes_of_one_call_are_computed_once() -> None:
    policy = make_policy(cache_bytes=0)
    prefix = random_prefixes(1)[0]
    completions = policy.generate([Request(prefix, 20, temperature=1.0, seed=seed) for seed in range(10)])
    assert sorted(completion.num_reused_tokens for completion in completions) == [0] + [len(prefix)] * 9
    assert_same(
        completions[3:4], make_policy(cache_bytes=0).generate([Request(prefix, 20, temperature=1.0, seed=3)])
    )


def test_without_a_byte_budget_nothing_is_reused_between_calls() -> None:
    policy = make_policy(cache_bytes=0)
    requests = [Request(prefix, 20) for prefix in random_prefixes(5)]
    policy.generate(requests)
    assert all(completion.num_reused_tokens == 0 for completion in policy.generate(requests))


def test_reset_cache_forgets_everything() -> None:
    policy = make_policy()
    requests = [Request(prefix * 20, 20) for prefix in random_prefixes(5, longest=5)]
    first = policy.generate(requests)
    assert all(completion.num_reused_tokens > 0 for completion in policy.generate(requests))
    policy.reset_cache()
    assert policy.generate(requests) == first


def test_a_budget_of_a_few_blocks_changes_no_completion() -> None:
    bytes_per_block = 2 * 2 * 2 * 8 * BLOCK * 4
    requests = mixed_requests(20) + [
        Request(prefix * 3, 20) for prefix in random_prefixes(10, seed=2, longest=30)
    ]
    expected = make_policy(cache_bytes=0).generate(requests)
    for num_blocks in (1, 7):
        policy = make_policy(batch_size=4, cache_bytes=num_blocks * bytes_per_block)
        for _ in range(2):
            assert_same(policy.generate(requests), expected)


def test_prefix_cache_finds_what_a_list_of_all_prefixes_would_find() -> None:
    """With room for everything, the match is the longest common prefix with any stored whole block.

    The keys and values come back unchanged.
    """
    model = make_model()
    with torch.inference_mode():
        probed = probe(model)
        assert probed is not None
        rows, cache = KVRows(model, *probed), PrefixCache(1 << 24, *probed)
        rows.fit(2, 64, 0)
        rng, stored = random.Random(0), list[tuple[int, ...]]()
        for _ in range(200):
            ids = tuple(rng.choice((7, 8)) for _ in range(rng.randint(0, 3)))
            ids = (*ids, *(9 for _ in range(rng.randint(0, 60 - len(ids)))))
            match = cache.match(ids)
            common = [sum(1 for _ in zip_equal(ids, other)) for other in stored]
            assert match.num_tokens == max(common, default=0)
            cache.load(rows, {1: match})
            # the fake keys of a token are a function of the prefix up to it
            expected = [float(hash(ids[: idx + 1]) % 1000) for idx in range(match.num_tokens)]
            assert rows.keys[1][1, 0, : match.num_tokens, 3].tolist() == expected
            for buffer in (*rows.keys, *rows.values):
                buffer[0] = 0.0
                buffer[0, :, : len(ids)] = torch.tensor(
                    [float(hash(ids[: idx + 1]) % 1000) for idx in range(len(ids))]
                )[:, None]
            cache.insert(rows, {0: ids})
            stored.append(ids[: len(ids) // BLOCK * BLOCK])


def zip_equal(first: Sequence[int], second: Sequence[int]) -> Iterator[int]:
    """The tokens that two sequences start with."""
    for a, b in zip(first, second, strict=False):
        if a != b:
            return
        yield a


def test_prefix_cache_keeps_to_its_budget_and_drops_the_oldest() -> None:
    model = make_model()
    with torch.inference_mode():
        probed = probe(model)
        assert probed is not None
        rows, cache = KVRows(model, *probed), PrefixCache(4 * 2 * 2 * 2 * 8 * BLOCK * 4, *probed)
        rows.fit(1, 64, 0)
        old, new = (5,) * 32, (6,) * 32
        cache.insert(rows, {0: old})
        cache.insert(rows, {0: new})
        cache.match(old)
        cache.insert(rows, {0: (7,) * 16})
        assert len(cache) == 4
        assert [cache.match(ids).num_tokens for ids in (old, new)] == [32, 16]


def test_sampling_frequencies_match_the_distribution() -> None:
    """Pearson's statistic of 4,000 first tokens stays below its 99.9 % point (Wilson-Hilferty)."""
    policy = make_policy()
    prefix, num_samples, temperature = random_prefixes(1)[0], 4000, 1.5
    completions = policy.generate([Request(prefix, 1, temperature, seed=seed) for seed in range(num_samples)])
    counts = Counter(completion.token_ids[0] for completion in completions)
    with torch.inference_mode():
        probs_V = (
            policy.model(input_ids=torch.tensor([prefix])).logits[0, -1].double() / temperature
        ).softmax(-1)
    expected = {
        token_id: num_samples * p for token_id, p in enumerate(probs_V.tolist()) if num_samples * p >= 5
    }
    statistic = sum((counts[token_id] - mean) ** 2 / mean for token_id, mean in expected.items())
    freedom = len(expected)
    assert freedom >= 10
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    logits_B_V = torch.tensor([[0.15, 0.4, 0.05, 0.3, 0.1]]).log().expand(2000, -1)
    uniforms_B = (torch.arange(2000, dtype=torch.double) + 0.5) / 2000
    for top_p, kept in (
        (0.3, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {0, 1, 3}),
        (1.0, {0, 1, 2, 3, 4}),
    ):
        ids_B = sample(
            logits_B_V, torch.ones(2000), torch.full((2000,), top_p, dtype=torch.double), uniforms_B
        )
        assert set(ids_B.tolist()) == kept
        total = sum(logits_B_V[0, token_id].exp().item() for token_id in kept)
        for token_id in kept:
            share = (ids_B == token_id).double().mean().item()
            assert share == pytest.approx(logits_B_V[0, token_id].exp().item() / total, abs=2e-3)


def test_a_neighbours_top_p_changes_no_sample() -> None:
    prefix = random_prefixes(1)[0]
    sampled = [Request(prefix, 30, 1.0, seed=seed) for seed in range(8)]
    truncated = [Request(prefix, 30, 1.0, 0.5, seed=seed) for seed in range(8)]
    policy = make_policy()
    assert_same(policy.generate(sampled + truncated)[:8], policy.generate(sampled))


def test_evidence_is_finite_where_the_model_forbids_tokens() -> None:
    taken = take(torch.tensor([[0.0, -torch.inf, 1.0]]), torch.zeros(1), None, None)
    assert taken.entropies_B.item() == pytest.approx(math.log(1 + math.e) - math.e / (1 + math.e))
    assert (taken.ids_B.item(), taken.runner_up_ids_B.item()) == (2, 0)


def test_uniforms_are_splitmix64() -> None:
    """The first numbers of the generator with state 1234567, from Rosetta Code; the top 52 bits are used."""
    published = (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    )
    values_B = uniforms(torch.full((5,), 1234567), torch.arange(5))
    assert values_B.tolist() == [(value >> 12) * 2.0**-52 for value in published]


def test_uniforms_are_uniform_and_keys_unrelated() -> None:
    keys_B = torch.tensor([random_key(seed) for seed in range(300)])
    values_S_B = torch.stack([uniforms(keys_B, torch.full_like(keys_B, step)) for step in range(300)])
    assert values_S_B.min() >= 0 and values_S_B.max() < 1
    counts = torch.histc(values_S_B.float(), bins=20, min=0, max=1)
    assert ((counts - 4500) ** 2 / 4500).sum() < 43.8  # 99.9 % point, 19 degrees of freedom
    correlations = torch.corrcoef(values_S_B.T[:50]) - torch.eye(50)
    assert correlations.abs().max() < 5 / math.sqrt(300)
    assert (
        torch.corrcoef(torch.stack((values_S_B[:-1].flatten(), values_S_B[1:].flatten())))[0, 1].abs() < 0.015
    )


def test_equal_seeds_repeat_and_different_seeds_do_not() -> None:
    policy = make_policy()
    prefix = random_prefixes(1)[0]
    first = policy.generate([Request(prefix, 30, 1.0, seed=seed) for seed in (1, 2, 2**70, -5)])
    again = policy.generate([Request(prefix, 30, 1.0, seed=seed) for seed in (1, 2, 2**70, -5)])
    assert_same(first, again)
    assert len({completion.token_ids for completion in first}) == 4


def test_finish_says_why_a_completion_ended() -> None:
    policy = make_policy("llama")
    completions = policy.generate(
        [Request(prefix, 60, 1.0, seed=idx) for idx, prefix in enumerate(random_prefixes(40))]
    )
    assert {completion.finish for completion in completions} == {"stop", "length"}
    for completion in completions:
        is_ended = completion.token_ids[-1] in policy.eos_ids
        assert completion.finish == ("stop" if is_ended else "length")
        assert is_ended or len(completion) == 60
        assert not set(completion.token_ids[:-1]) & policy.eos_ids


def test_nothing_follows_a_prefix_that_ends_in_an_end_token() -> None:
    policy = make_policy()
    prefixes = random_prefixes(3)
    requests = [Request(prefixes[0], 5), Request((*prefixes[1], 1), 5), Request((1, *prefixes[2]), 5)]
    completions = policy.generate(requests)
    assert completions[1] == Completion((), (), (), (), (), "stop")
    assert [len(completions[idx]) for idx in (0, 2)] == [5, 5]
    assert policy.generate(requests[1:2]) == completions[1:2]
    assert policy.generate([]) == []


def test_all_end_tokens_of_the_generation_configuration_end_a_completion() -> None:
    model = make_model()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [1, *range(5, 30)]
    policy = LocalPolicy(model, make_tokenizer(), "many ends")
    assert policy.eos_ids == {1, *range(5, 30)}
    completions = policy.generate(
        [Request(prefix, 200, 1.0, seed=3) for prefix in random_prefixes(10, longest=20)]
    )
    assert all(completion.finish == "stop" for completion in completions)


def test_more_tokens_than_positions_is_an_error_with_both_numbers() -> None:
    policy = make_policy()
    assert len(policy.generate([Request((7,) * 200, 56)])) == 1
    with pytest.raises(ValueError, match=r"200 tokens and max_tokens 57 .* 256 positions"):
        policy.generate([Request((7,) * 200, 57)])


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1})],
)
def test_models_with_other_caches_are_served_without_row_surgery(
    architecture: str, changes: dict[str, Any]
) -> None:
    policy = make_policy(architecture, batch_size=4, **changes)
    with torch.inference_mode():
        assert probe(policy.model) is None
    prefixes = [prefix[:20] for prefix in random_prefixes(12)]
    completions = policy.generate([Request(prefix, 30) for prefix in prefixes])
    for prefix, completion in zip(prefixes, completions, strict=True):
        assert completion.token_ids == greedy_reference(policy, prefix, 30)
        assert completion.num_reused_tokens == 0


def test_prompts_follow_template_then_chat_template_then_plain_text() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    plain = LocalPolicy(model, tokenizer, "plain")
    assert plain.encode_question("1+1?") == tuple(tokenizer.encode("1+1?\n"))
    templated = LocalPolicy(model, tokenizer, "templated", template="Q: {question}\nA:")
    tokenizer.chat_template = (
        "{% for m in messages %}<user>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    chat = LocalPolicy(model, tokenizer, "chat")
    assert tokenizer.convert_ids_to_tokens(list(chat.encode_question("1{}?")[::5])) == [
        "<user>",
        "<assistant>",
    ]
    assert chat.token_texts(chat.encode_question("1{}?")) == ["", "1", "{", "}", "?", ""]
    assert templated.decode(templated.encode_question("1{}?")) == "Q: 1{}?\nA:"
    with pytest.raises(ValueError, match=r"no \{question\} in it"):
        LocalPolicy(model, tokenizer, "wrong", template="Q: {}")


def test_special_tokens_have_no_text() -> None:
    policy = make_policy()
    ids = (*policy.encode_question("a b"), 3, 1)
    assert policy.token_texts(ids) == ["a", " ", "b", "\n", "", ""]
    assert policy.decode(ids) == "a b\n"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: every character outside of ASCII is several tokens."""
    vocab = {
        token: idx
        for idx, token in enumerate(["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")  # type: ignore[no-untyped-call]


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """As SentencePiece has it: words begin with their space, and the text's first space is not shown."""
    vocab = {token: idx for idx, token in enumerate(["<pad>", "<eos>", "▁the", "▁cat", "s", "▁", "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")  # type: ignore[no-untyped-call]


def test_joined_token_texts_are_the_decoded_text() -> None:
    policy = LocalPolicy(make_model(), byte_tokenizer(), "bytes")
    for text in ("plain", "5 × 4 = 20 €", "ки", ""):
        ids = policy.encode_question(text)
        assert "".join(policy.token_texts(ids)) == policy.decode(ids) == text + "\n"
        assert all("\ufffd" not in token_text for token_text in policy.token_texts(ids))
    assert policy.token_texts(policy.encode_question("a€b")) == ["a", "", "", "€", "b", "\n"]
    assert policy.token_texts((*policy.encode_question("a€")[:3], 1)) == ["a", "", "\ufffd", ""]
    words = LocalPolicy(make_model(), metaspace_tokenizer(), "words")
    assert words.token_texts([2, 3, 4, 5, 2, 1]) == ["the", " cat", "s", " ", " the", ""]
    assert words.token_texts([4, 3]) == ["s", " cat"]


def test_the_name_changes_with_weights_template_and_number_format(tmp_path: Path) -> None:
    first, second = make_checkpoint(tmp_path / "a" / "tiny"), make_checkpoint(tmp_path / "b" / "tiny", seed=1)
    names = [
        LocalPolicy.load(first).name,
        LocalPolicy.load(second).name,
        LocalPolicy.load(first, template="{question}").name,
        LocalPolicy.load(first, dtype="bfloat16").name,
    ]
    assert len(set(names)) == 4 and all(name.startswith("tiny-") for name in names)
    assert LocalPolicy.load(str(first), batch_size=2).name == names[0]


def test_a_loaded_checkpoint_continues_like_the_model_it_was_saved_from(tmp_path: Path) -> None:
    requests = mixed_requests(10)
    assert_same(load_policy(make_checkpoint(tmp_path)).generate(requests), make_policy().generate(requests))


def test_a_loaded_checkpoint_tokenizes_as_it_was_saved(tmp_path: Path) -> None:
    for architecture in ARCHITECTURES:
        policy = LocalPolicy.load(make_checkpoint(tmp_path / architecture, architecture))
        ids = policy.encode_question("Tom's 12 cats, 3 <eos>")
        assert ids == tuple(make_tokenizer().encode("Tom's 12 cats, 3 <eos>\n"))
        assert max(ids) < policy.model.config.vocab_size


def test_bfloat16_is_served_with_finite_evidence(tmp_path: Path) -> None:
    policy = LocalPolicy.load(make_checkpoint(tmp_path), dtype="bfloat16")
    assert policy.model.dtype == torch.bfloat16
    completions = policy.generate(mixed_requests(10))
    assert all(
        math.isfinite(value)
        for completion in completions
        for value in (*completion.logprobs, *completion.entropies)
    )


def test_a_place_without_a_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load_policy(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    make_model().config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a directory with a model nor"):
        load_policy(tmp_path)
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; choose from auto, float32"):
        LocalPolicy.load(tmp_path, dtype="int8")  # type: ignore[arg-type]


def test_importing_the_policies_loads_neither_torch_nor_transformers() -> None:
    """An attempt to import them ends the process with status 1, sooner than a whole import would."""
    refuse = (
        "import sys\n"
        "class Refusal:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers'): sys.exit(1)\n"
        "sys.meta_path.insert(0, Refusal())\n"
    )
    for module, status in (("forkpoint.policies", 0), ("forkpoint.policies.local", 1)):
        done = subprocess.run([sys.executable, "-c", f"{refuse}import {module}"], check=False)
        assert done.returncode == status
