"""How a PRM lays solutions out, from its descriptions and tokenizer alone: no weights are read.

Invariant: what is bound here is what `load_prm` binds for the same checkpoint, family and options, except that the reference of an
implicit PRM, which may be the shorter of the two, is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoConfig

from forkpoint.checkpoint import load_tokenizer
from forkpoint.checks import check_choice
from forkpoint.prms.families import DESCRIPTIONS, FAMILIES, OURS, family_class, recognise
from forkpoint.prms.layout import EncodedSolution, Layout, PRMFormat


class Encoder(Protocol):
    """What `Layout` and the public families share."""

    def encode(self, question: str, steps: tuple[str, ...], /) -> EncodedSolution:
        """The tokens of a solution, and where its steps are read; LayoutError where it does not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads solutions, and what of it can be checked."""

    family: str
    encoder: Encoder
    tokenizer: Any
    max_length: int
    """Tokens of a solution at most."""
    num_positions: int | None
    """Tokens that the model is made for; None where its configuration does not say."""
    tag_id: int | None
    """The token at which every step is read, where it is always the same one."""
    label_ids: tuple[int, int] | None
    """Good and bad, where a score is read off the language model's head."""
    keeps_prefixes: bool
    """Whether the tokens up to a step's place are the same whatever follows it."""


def directory_of(path_or_id: str | Path) -> Path:
    """The directory itself, or where the files of the hub that describe the model lie. FileNotFoundError where there are none."""
    if Path(path_or_id).is_dir():
        return Path(path_or_id)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=list(DESCRIPTIONS)))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no file or directory {path_or_id}, and no such model on the hub can be had ({type(error).__name__})"
        ) from error


def reader_of(
    path_or_id: str | Path, family: str | None = None, options: Mapping[str, Any] | None = None
) -> Reader:
    """The reader of a PRM. LayoutError where tag, label tokens or template do not fit the tokenizer, or the family is not told."""
    if family is not None:
        check_choice("PRM family", family, (OURS, *FAMILIES))
    directory = directory_of(path_or_id)
    family = family or recognise(directory, Path(path_or_id).name)
    tokenizer: Any = load_tokenizer(path_or_id)
    num_positions: int | None = getattr(
        AutoConfig.from_pretrained(directory).get_text_config(), "max_position_embeddings", None
    )
    if family == OURS:
        layout = Layout(tokenizer, PRMFormat.load(directory))
        return Reader(
            family,
            layout,
            tokenizer,
            layout.format.max_length,
            num_positions,
            layout.tag_id,
            layout.good_bad_ids,
            keeps_prefixes=True,
        )
    its_options = {name: value for name, value in (options or {}).items() if name != "reference"}
    bound = family_class(family)(tokenizer, num_positions or 0, **its_options)
    label_ids = (
        (bound.good_id, bound.bad_id) if hasattr(bound, "good_id") and hasattr(bound, "bad_id") else None
    )
    tag_id = getattr(bound, "tag_id", None)
    return Reader(
        family, bound, tokenizer, bound.max_length, num_positions, tag_id, label_ids, bound.packs_trees
    )
