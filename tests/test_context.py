"""The room that a policy's context leaves after a prompt."""

from __future__ import annotations

import subprocess
import sys

import pytest

from forkpoint.policies import ScriptedPolicy
from forkpoint.policies.context import fits_context, room_after
from forkpoint.records import Problem


class ShortPolicy(ScriptedPolicy):
    """A policy with a context of ten tokens; a prompt is one token per character."""

    @property
    def max_length(self) -> int:  # type: ignore[override]
        return 10

    def encode_question(self, question: str) -> tuple[int, ...]:
        return tuple(range(len(question)))


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "room"), [(0, 4, 4), (7, 4, 3), (6, 4, 4), (9, 4, 1), (10, 4, 0), (12, 4, 0)]
)
def test_room_is_what_both_limits_allow(num_prompt: int, max_tokens: int, room: int) -> None:
    assert room_after(ShortPolicy({}), range(num_prompt), max_tokens) == room


def test_without_a_limit_the_room_is_max_tokens() -> None:
    assert room_after(ScriptedPolicy({}), range(10_000), 4) == 4


@pytest.mark.parametrize(("question", "fits"), [("q" * 9, True), ("q" * 10, False), ("q" * 11, False)])
def test_a_prompt_fits_if_one_token_can_follow(question: str, fits: bool) -> None:
    assert fits_context(ShortPolicy({}), Problem("p", question, "1")) is fits
    assert fits_context(ScriptedPolicy({}), Problem("p", question, "1"))


def test_the_question_of_room_loads_no_torch() -> None:
    program = "import sys, forkpoint.policies.context; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
