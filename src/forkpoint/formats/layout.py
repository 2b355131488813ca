"""Where other formats put the question, the step tags and what stands between steps.

Our steps, joined without anything between, are the solution. Invariant: what these functions take apart, their partners
put together again exactly, or they refuse; the one exception is `tagged`, which says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from forkpoint.formats.cells import text
from forkpoint.records import LabelledSolution


def split_question(head: str, row: Mapping[str, Any], first_step: str) -> tuple[str, str]:
    """The question and what follows it in `head`, a text that begins with the question and ends with the first step.

    The column `question` of the row says what the question is, where there is one; `head` may then begin with it or leave
    it out. Else the solution begins at the only place of `first_step`, in whatever case. An empty `first_step` says that
    nothing marks the place: the question stays empty and is part of the first step. One space between the two is dropped.
    Raises ValueError where the place cannot be told.
    """
    if "question" in row:
        question = text(row, "question")
        if head.startswith(question + " "):
            return question, head[len(question) + 1 :]
        if question.strip() and question.strip() in head:
            raise ValueError(
                "the text has the question of column 'question' in it, but does not begin with it and one space"
            )
        return question, head
    if not first_step:
        return "", head
    places = [match.start() for match in re.finditer(re.escape(first_step), head, re.IGNORECASE)]
    if len(places) != 1:
        raise ValueError(
            f"the question cannot be told from the first step: {first_step!r} stands {len(places)} times in {head!r:.80}; give the option "
            "first_step= what every first step begins with, or first_step='' to leave the question in the first step"
        )
    return head[: places[0]].removesuffix(" "), head[places[0] :]


def check_question(solution: LabelledSolution, first_step: str, has_extras: bool) -> None:
    """Raises ValueError where `split_question` would cut the written text inside the question."""
    if not has_extras and first_step and first_step.lower() in solution.question.lower():
        raise ValueError(
            f"the question holds {first_step!r}, where a reader takes the solution to begin; give the option extras=True"
        )


def tagged(solution: LabelledSolution, tag: str) -> str:
    """Question, space, then each step with a space and the tag at its end, in front of its line ends.

    A line end at the beginning of a step is read as the end of the step before: the text stays, the cut moves. All else
    comes back exactly. Raises ValueError where the tag is in the question or in a step already.
    """
    for place, part in [
        ("the question", solution.question),
        *((f"step {idx + 1}", step) for idx, step in enumerate(solution.steps)),
    ]:
        if tag in part:
            raise ValueError(
                f"{place} holds the step tag {tag!r}: {part!r:.80}; the text would have more tags than steps"
            )
    bodies = (step.rstrip("\n") for step in solution.steps)
    parts = (f"{body} {tag}{step[len(body) :]}" for body, step in zip(bodies, solution.steps, strict=True))
    return f"{solution.question} {''.join(parts)}"


def untagged(whole: str, tag: str) -> list[str]:
    """The steps of a text with a tag at the end of each, before the question is cut from the first one.

    One space before a tag belongs to the tag, line ends after it to the step. Raises ValueError where there is no tag or
    text after the last one.
    """
    pieces = re.split(f" ?{re.escape(tag)}(\n*)", whole)
    *pieces, rest = pieces
    if not pieces:
        raise ValueError(f"there is no step tag {tag!r} in {whole!r:.80}")
    if rest.strip():
        raise ValueError(f"there is text after the last step tag: {rest!r:.80}")
    steps = [body + line_ends for body, line_ends in zip(pieces[::2], pieces[1::2], strict=True)]
    steps[-1] += rest
    return steps


def check_tag(tag: str) -> None:
    """Raises ValueError unless the tag is a word."""
    if not tag or any(character.isspace() for character in tag):
        raise ValueError(f"tag must be at least one character without white space; {tag!r} was given")


def separated(texts: Sequence[str], separator: str) -> list[str]:
    """The steps of texts that were published without what stood between them: all but the last get `separator` at the end."""
    return [body + separator for body in texts[:-1]] + list(texts[-1:])


def unseparated(steps: Sequence[str], separator: str) -> list[str]:
    """The texts of steps without the `separator` at the end of all but the last.

    Raises ValueError where a step does not end in it: reading the row back would add what never was there.
    """
    for idx, step in enumerate(steps[:-1]):
        if not step.endswith(separator):
            raise ValueError(
                f"step {idx + 1} does not end in the separator {separator!r}, which a reader puts between steps: {step[-40:]!r}; "
                "give the option separator='' to write the steps as they are"
            )
    return [step.removesuffix(separator) for step in steps[:-1]] + list(steps[-1:])
