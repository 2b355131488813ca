"""Policies that are fed while they work: rows are refilled at once, each completion is its request's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from forkpoint.policies import ScriptedPolicy
from forkpoint.policies.stream import ListSource, completions_of, in_order, is_streaming
from forkpoint.records import Completion, Request

SCRIPT = {"": {"a": 0.6, "b": 0.4}, "b": {"c": 0.9, "d": 0.1}, "bc": {"e": 1.0}}


def letters(policy: ScriptedPolicy, text: str, seed: int = 0, max_tokens: int = 9) -> Request:
    return Request((*policy.encode_question("q"), *policy.encode(text)), max_tokens, 1.0, seed=seed)


class Chain:
    """A source whose next request is the last completion, cut by one token, until `num` were asked."""

    def __init__(self, starts: Sequence[Request], num: int) -> None:
        self.ready = list(starts)
        self.num_left = num
        self.rooms: list[int] = []

    def next(self, room: int) -> list[Request]:
        self.rooms.append(room)
        taken, self.ready = self.ready[:room], self.ready[room:]
        return taken

    def absorb(self, request: Request, completion: Completion) -> None:
        if self.num_left and len(completion) > 1:
            self.num_left -= 1
            prefix_ids = request.prefix_ids + completion.token_ids[: len(completion) // 2]
            self.ready.append(replace(request, prefix_ids=prefix_ids, seed=request.seed + 1))


def answered(policy: Any, source: Chain) -> dict[Request, Completion]:
    found = {}
    for request, completion in completions_of(policy, source):
        found[request] = completion
        source.absorb(request, completion)
    return found


def test_completions_come_in_the_order_of_the_requests_and_equal_requests_each_get_one() -> None:
    policy = ScriptedPolicy(SCRIPT, num_rows=2)
    requests = [letters(policy, text, seed) for text, seed in (("", 1), ("b", 2), ("", 1), ("bc", 3))]
    alone = [ScriptedPolicy(SCRIPT).generate([request])[0] for request in requests]
    assert policy.generate(requests) == alone
    assert in_order(requests, policy.stream(ListSource(reversed(requests)))) == alone


def test_a_row_is_filled_again_as_soon_as_it_is_done() -> None:
    policy = ScriptedPolicy(lambda _, text: {"x": 1.0}, name="x", num_rows=2)
    requests = [Request(policy.encode_question(str(num)), num) for num in (5, 1, 1, 3)]
    order = [len(completion) for _, completion in policy.stream(ListSource(requests))]
    assert order == [1, 1, 5, 3]
    assert (policy.num_steps, policy.num_row_steps) == (5, 10)
    assert policy.batch_sizes == [2, 1, 1]


def test_a_completion_is_taken_in_before_the_policy_pulls_again() -> None:
    policy = ScriptedPolicy(lambda _, text: {"x": 1.0}, name="x", num_rows=1)
    source = Chain([Request(policy.encode_question("q"), 8)], num=3)
    assert len(answered(policy, source)) == 4
    assert source.rooms == [1] * 5


class Plain:
    """A policy of a user, with nothing but `generate`."""

    def __init__(self) -> None:
        self.inner = ScriptedPolicy(SCRIPT)
        self.sizes: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.sizes.append(len(requests))
        return self.inner.generate(requests)


class Refined(ScriptedPolicy):
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [replace(completion, num_reused_tokens=7) for completion in super().generate(requests)]


def test_a_policy_that_has_only_generate_is_fed_with_what_is_ready() -> None:
    policy = Plain()
    assert not is_streaming(policy)  # type: ignore[arg-type]
    source = Chain([letters(policy.inner, "", seed) for seed in range(70)], num=10)
    found = answered(policy, source)
    assert policy.sizes[:2] == [64, 16] and sum(policy.sizes) == len(found) == 80
    assert found == answered(ScriptedPolicy(SCRIPT), Chain(list(found), num=0))


def test_a_subclass_that_changes_generate_alone_is_not_passed_by() -> None:
    policy = Refined(SCRIPT)
    assert is_streaming(ScriptedPolicy(SCRIPT)) and not is_streaming(policy)
    found = answered(policy, Chain([letters(policy, "")], num=0))
    assert [completion.num_reused_tokens for completion in found.values()] == [7]


# --- the local engine


def local_policy(batch_size: int, cache_bytes: int) -> Any:
    from checkpoints import make_model, make_tokenizer
    from forkpoint.policies.local import LocalPolicy

    model = make_model("qwen2")
    return LocalPolicy(model, make_tokenizer(), "tiny", batch_size=batch_size, cache_bytes=cache_bytes)


def local_starts(num: int) -> list[Request]:
    return [
        Request(tuple(7 + (3 * idx + step) % 60 for step in range(5 + idx)), 40, idx % 2, seed=idx)
        for idx in range(num)
    ]


@pytest.mark.slow
def test_a_completion_is_the_same_to_the_last_bit_whatever_is_beside_it() -> None:
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = answered(local_policy(64, 1 << 24), Chain(local_starts(20), num=60))
        assert len(found) == 80
        for batch_size, cache_bytes in ((1, 0), (3, 1 << 24), (16, 1 << 15), (64, 0)):
            again = answered(local_policy(batch_size, cache_bytes), Chain(list(found), num=0))
            for request, completion in found.items():
                assert replace(again[request], num_reused_tokens=0) == replace(
                    completion, num_reused_tokens=0
                )
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.slow
def test_complete_prefixes_are_answered_while_others_are_in_flight() -> None:
    policy = local_policy(2, 0)
    (end,) = policy.eos_ids
    ended = [Request((9, num, end), 5) for num in (10, 11, 12)]
    starts = local_starts(3)
    found = answered(policy, Chain([*ended[:2], *starts, ended[2]], num=2))
    assert len(found) == 8
    assert [len(found[request]) for request in ended] == [0, 0, 0]
    with pytest.raises(ValueError, match="do not fit into the 256 positions"):
        answered(policy, Chain([Request((9,) * 250, 7)], num=0))


@pytest.mark.slow
def test_a_stream_that_begins_while_another_is_open_disturbs_neither() -> None:
    policy, starts = local_policy(4, 1 << 20), local_starts(6)
    expected = local_policy(4, 0).generate(starts)
    outer = policy.stream(ListSource(starts))
    first = next(outer)
    inner = policy.generate(starts)
    rest = [first, *outer]
    assert [replace(item, num_reused_tokens=0) for item in inner] == expected
    assert [replace(item, num_reused_tokens=0) for item in in_order(starts, iter(rest))] == expected
