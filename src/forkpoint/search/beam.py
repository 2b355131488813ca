"""Partial solutions (beams), and how each is continued to the end of its next step.

A step is complete with the line break that ends its line. The policy writes that line break by itself, so
stopping there and continuing from there does not change its distribution. (Looking one token further, for a
blank line, would: a blank line is sampled together with the next step, but belongs to the step before it.)
Engines cannot stop at a line break, so tokens are sampled in chunks and cut. The tokens after the cut begin
the first continuation of the beam if it is continued, and are lost otherwise; every sampled token counts.

Invariant: the place at which a beam ends depends on its tokens alone, not on the chunks in which they were
sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.records import Completion, Cost, Finish, Policy, Request
from forkpoint.search.config import SearchConfig
from forkpoint.search.guide import Draft
from forkpoint.solutions.sample import sample_seed
from forkpoint.steps import lines_of, newline_steps


@dataclass(frozen=True, slots=True)
class Beam:
    """A partial or a finished solution."""

    token_ids: tuple[int, ...]
    """The tokens after the prompt, end token included."""
    draft: Draft
    """What the PRM reads: the complete steps, or the whole solution if it is finished."""
    tail_ids: tuple[int, ...]
    """Tokens that were already sampled after the end of the last step."""
    finish: Finish | None
    """None if the solution can continue; else whether the policy ended it or it has reached the longest
    allowed length."""


ROOT = Beam((), Draft((), (), ()), (), None)


class Growth:
    """A continuation of a beam that is being sampled."""

    def __init__(
        self, prompt_ids: tuple[int, ...], room: int, start: Beam, slot: int, is_first: bool
    ) -> None:
        """A continuation of `start`.

        `slot` tells continuations of the same tokens apart; the first continuation of a beam begins with its
        tail.
        """
        self._prompt_ids, self._room, self._start, self._slot = prompt_ids, room, start, slot
        self._token_ids = start.token_ids + (start.tail_ids if is_first else ())
        self.grown: Beam | None = None
        self.cost = Cost()

    @property
    def beam(self) -> Beam:
        """The continued beam, once its next step is complete."""
        assert self.grown is not None, "asked only after `grow`"
        return self.grown

    def request(self, config: SearchConfig) -> Request:
        """The request for the next chunk of tokens."""
        prefix_ids = self._prompt_ids + self._token_ids
        max_tokens = min(config.chunk_tokens, self._room - len(self._token_ids))
        return Request(
            prefix_ids,
            max_tokens,
            config.temperature,
            config.top_p,
            sample_seed(prefix_ids, config.seed, self._slot),
        )

    def absorb(self, request: Request, completion: Completion) -> None:
        """Add the completion of a request."""
        self._token_ids += completion.token_ids
        self.cost += Cost.of([request], [completion])

    def look(self, policy: Policy) -> None:
        """Complete the beam if the tokens so far reach the end of the step or of the solution."""
        ids, texts = self._token_ids, policy.token_texts(self._token_ids)
        num_before = len(self._start.token_ids)
        torn = "".join(texts[:num_before])[len("".join(self._start.draft.steps)) :]
        end = line_end(texts, num_before, torn)
        has_ended = bool(ids) and ids[-1] in policy.eos_ids
        if end is None and not has_ended and len(ids) < self._room:
            return
        finish: Finish | None = None
        if end is None:
            finish = "stop" if has_ended else "length"
        kept_ids, tail_ids = ids[:end], ids[end:] if end is not None else ()
        text = "".join(texts[:end])
        steps = newline_steps(text) if finish else complete_steps(text)
        num_read = len(kept_ids) - (finish == "stop")  # the end token has no text to read
        self.grown = Beam(
            kept_ids, Draft(steps, kept_ids[:num_read], tuple(texts[:num_read])), tail_ids, finish
        )


def grow(policy: Policy, growths: Sequence[Growth], config: SearchConfig) -> None:
    """Continue all beams, one chunk per call of the policy, until the next step of each is complete."""
    waiting = list(growths)
    for growth in waiting:
        growth.look(policy)
    while waiting := [growth for growth in waiting if growth.grown is None]:
        requests = [growth.request(config) for growth in waiting]
        for growth, request, completion in zip(waiting, requests, policy.generate(requests), strict=True):
            growth.absorb(request, completion)
            growth.look(policy)


def line_end(token_texts: Sequence[str], start: int, torn: str = "") -> int | None:
    """The number of tokens up to the end of the first line with text after `start`; None if no line ends.

    `torn` is the beginning of that line, from the tokens before `start`.
    """
    for position in range(start, len(token_texts)):
        torn += token_texts[position]
        if any(_is_whole(line) for line in lines_of(torn)):
            return position + 1
    return None


def complete_steps(text: str) -> tuple[str, ...]:
    """The lines of a text as steps, without a last line that has no line break yet."""
    steps = newline_steps(text)
    return steps if any(_is_whole(line) for line in lines_of(steps[-1])) else steps[:-1]


def _is_whole(line: str) -> bool:
    return bool(line.strip()) and line.endswith(("\n", "\r"))
