"""What whoever publishes says of a PRM or of labels."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Publication:
    """What no run records, or may not decide; nothing of it is guessed."""

    license: str
    """The licence, as the hub names it (apache-2.0, mit, cc-by-4.0, other, ...); base model and problems may prescribe it."""
    base_model: str | None = None
    """Hub id of the model that a PRM was trained from, where that was a directory."""
    problem_set: str | None = None
    """What the labelled problems are, such as `openai/gsm8k, train`; runs record a hash of them."""
    datasets: tuple[str, ...] = ()
    """Hub ids of the data sets that it was made from."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise ValueError(
                f"a licence is named as the hub names it, such as apache-2.0, mit, cc-by-4.0 or other; {self.license!r} was given"
            )
