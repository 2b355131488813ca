"""A partial solution, and how it is continued up to the end of its next step.

A step is complete with the line break that ends its line: a place that the policy reaches by itself, so to stop there and to
go on from there leaves its distribution as it is. (To look one token further, for a blank line, would not: such a line comes
with the step after, and belongs to the step before once it is there.) Engines know no such stop, so tokens are sampled in
chunks and cut. What was sampled behind the cut begins the first continuation of the beam, if it gets one, and is lost
otherwise; every sampled token counts.

Invariant: where a beam ends depends on its tokens alone, not on the chunks in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.records import Completion, Cost, Finish, Policy, Request
from forkpoint.search.config import SearchConfig
from forkpoint.search.guide import Draft
from forkpoint.solutions.sample import sample_seed
from forkpoint.steps import newline_steps


@dataclass(frozen=True, slots=True)
class Beam:
    """A solution as far as it was followed."""

    token_ids: tuple[int, ...]
    """After the prompt, end token included."""
    draft: Draft
    """What the PRM reads of it: complete steps, and all of a finished one."""
    tail_ids: tuple[int, ...]
    """Sampled already, behind the end of the last step."""
    finish: Finish | None
    """None where it can go on; else the policy ended it, or it is as long as it may be."""


ROOT = Beam((), Draft((), (), ()), (), None)


class Growth:
    """A continuation of a beam in the making."""

    def __init__(
        self, prompt_ids: tuple[int, ...], room: int, start: Beam, slot: int, is_first: bool
    ) -> None:
        """`slot` tells continuations of the same tokens apart; the first one of a beam begins with its tail."""
        self._prompt_ids, self._room, self._start, self._slot = prompt_ids, room, start, slot
        self._token_ids = start.token_ids + (start.tail_ids if is_first else ())
        self.grown: Beam | None = None
        self.cost = Cost()

    @property
    def beam(self) -> Beam:
        """What it has become, once it is complete."""
        assert self.grown is not None, "asked only after `grow`"
        return self.grown

    def request(self, config: SearchConfig) -> Request:
        """The next chunk."""
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
        """Take what a request brought."""
        self._token_ids += completion.token_ids
        self.cost += Cost.of([request], [completion])

    def look(self, policy: Policy) -> None:
        """Cut a beam where the step, or the solution, has its end."""
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
    """Continue all side by side, one chunk per call of the policy, until each has grown its beam."""
    waiting = list(growths)
    for growth in waiting:
        growth.look(policy)
    while waiting := [growth for growth in waiting if growth.grown is None]:
        requests = [growth.request(config) for growth in waiting]
        for growth, request, completion in zip(waiting, requests, policy.generate(requests), strict=True):
            growth.absorb(request, completion)
            growth.look(policy)


def line_end(token_texts: Sequence[str], start: int, torn: str = "") -> int | None:
    """The number of tokens up to the one that ends the first line with text in it after `start`; None where none does.

    `torn` is what the tokens before `start` hold of that line.
    """
    for position in range(start, len(token_texts)):
        torn += token_texts[position]
        if any(_is_whole(line) for line in torn.splitlines(keepends=True)):
            return position + 1
    return None


def complete_steps(text: str) -> tuple[str, ...]:
    """The lines of a text as steps, but for a last one that has no line break yet."""
    steps = newline_steps(text)
    return steps if any(_is_whole(line) for line in steps[-1].splitlines(keepends=True)) else steps[:-1]


def _is_whole(line: str) -> bool:
    return bool(line.strip()) and line.splitlines() != [line]
