"""How other formats lay out the question, the step tags and the separators between steps.

Our steps, joined without anything between them, are the solution. Invariant: what one of these functions
takes apart, its partner puts together again exactly, or refuses; the one exception is in the docstring of
`tagged`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from forkpoint.formats.cells import text
from forkpoint.records import LabelledSolution


def split_question(head: str, row: Mapping[str, Any], first_step: str) -> tuple[str, str]:
    """Split `head`, a text that begins with the question and ends with the first step, into these two.

    If the row has a column `question`, that is the question, and `head` may begin with it or leave it out.
    Else the solution begins at the only occurrence of `first_step`, in upper or lower case. An empty
    `first_step` means that nothing marks the place: the question is then returned empty and remains part of
    the first step. One space between the two is dropped. Raises ValueError if the place is unclear.
    """
    if "question" in row:
        question = text(row, "question")
        if head.startswith(question + " "):
            return question, head[len(question) + 1 :]
        if question.strip() and question.strip() in head:
            raise ValueError(
                "the text has the question of column 'question' in it, but does not begin with it and a space"
            )
        return question, head
    if not first_step:
        return "", head
    places = [match.start() for match in re.finditer(re.escape(first_step), head, re.IGNORECASE)]
    if len(places) != 1:
        raise ValueError(
            f"the question cannot be told from the first step: {first_step!r} stands {len(places)} times in "
            f"{head!r:.80}; give the option first_step= with the text that begins every first step, or "
            "first_step='' to leave the question in the first step"
        )
    return head[: places[0]].removesuffix(" "), head[places[0] :]


def check_question(solution: LabelledSolution, first_step: str, has_extras: bool) -> None:
    """Raise ValueError if `split_question` would cut the written text inside the question."""
    if not has_extras and first_step and first_step.lower() in solution.question.lower():
        raise ValueError(
            f"the question holds {first_step!r}, with which the solution begins for a reader; "
            "give the option extras=True"
        )


def tagged(solution: LabelledSolution, tag: str) -> str:
    """The question, a space, and the steps, each with a space and the tag in front of its last line ends.

    A line end at the beginning of a step is read back as the end of the step before: the text is the same,
    the cut moves. Everything else is read back exactly. Raises ValueError if the tag occurs in the question
    or in a step.
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
    """The steps of a text with a tag at the end of each; the first one still begins with the question.

    One space before a tag belongs to the tag, line ends after it to the step. Raises ValueError if there is
    no tag, or if text follows the last one.
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
    """Raise ValueError unless the tag is a word: not empty, and without white space."""
    if not tag or any(character.isspace() for character in tag):
        raise ValueError(f"tag must be at least one character without white space; {tag!r} was given")


def separated(texts: Sequence[str], separator: str) -> list[str]:
    """The steps of texts published without their separators: all but the last get `separator` at the end."""
    return [body + separator for body in texts[:-1]] + list(texts[-1:])


def unseparated(steps: Sequence[str], separator: str) -> list[str]:
    """The texts of steps: all but the last lose the `separator` at the end.

    Raises ValueError if a step other than the last does not end with it: a reader would add one that was
    never there.
    """
    for idx, step in enumerate(steps[:-1]):
        if not step.endswith(separator):
            raise ValueError(
                f"step {idx + 1} does not end in the separator {separator!r}, which a reader puts between "
                f"steps: {step[-40:]!r}; give the option separator='' to write the steps as they are"
            )
    return [step.removesuffix(separator) for step in steps[:-1]] + list(steps[-1:])
