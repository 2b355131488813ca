"""Statements of the publisher about a PRM or labels."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Publication:
    """Facts that runs do not record or must not decide; none of them is guessed."""

    license: str
    """The licence as the hub names it: apache-2.0, mit, cc-by-4.0, other, ...

    The base model and the problems may prescribe it.
    """
    base_model: str | None = None
    """Hub id of the model that a PRM was trained from, if it was trained from a directory."""
    problem_set: str | None = None
    """The labelled problems, such as `openai/gsm8k, train`; runs record only a hash of them."""
    datasets: tuple[str, ...] = ()
    """Hub ids of the data sets that the PRM or the labels were made from."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise ValueError(
                "a licence must have its name on the hub, such as apache-2.0, mit, cc-by-4.0 or other; "
                f"{self.license!r} was given"
            )
