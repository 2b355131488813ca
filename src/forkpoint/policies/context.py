"""The room that a policy's context leaves after a prompt: prompts are compared with `Policy.max_length` here.

Invariant: a policy without a limit never shortens a completion. Loads no back-end.
"""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.records import Policy, Problem


def room_after(policy: Policy, prompt_ids: Sequence[int], max_tokens: int) -> int:
    """The number of tokens that may follow `prompt_ids`: at most `max_tokens`; 0 if the context is full."""
    if policy.max_length is None:
        return max_tokens
    return max(0, min(max_tokens, policy.max_length - len(prompt_ids)))


def fits_context(policy: Policy, problem: Problem) -> bool:
    """Whether the policy's context leaves room for at least one token after the problem's prompt."""
    return room_after(policy, policy.encode_question(problem.question), 1) > 0
