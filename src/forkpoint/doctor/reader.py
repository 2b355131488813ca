"""Find out how a PRM lays out solutions, from its configuration files and tokenizer without its weights.

Invariant: the result is what `load_prm` uses for the same checkpoint, family and options, except that the
reference model of an implicit PRM, which may have the smaller maximum length of the two, is not considered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoConfig

from forkpoint.checkpoint import load_pretrained, load_tokenizer
from forkpoint.prms.families import DESCRIPTIONS, OURS, check_family, family_class, recognise
from forkpoint.prms.layout import EncodedSolution, Layout, PRMFormat


class Encoder(Protocol):
    """The interface that `Layout` and the public families share."""

    def encode(self, question: str, steps: tuple[str, ...], /) -> EncodedSolution:
        """Return the tokens of a solution and where its steps are read.

        Raises LayoutError if it does not fit.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reader:
    """The encoder of a PRM, with the properties that can be checked."""

    family: str
    encoder: Encoder
    tokenizer: Any
    max_length: int
    """Largest number of tokens of a solution."""
    num_positions: int | None
    """Largest number of positions of the model; None if its configuration does not say."""
    tag_id: int | None
    """The token at which every step is read; None if it is not always the same one."""
    label_ids: tuple[int, int] | None
    """The tokens good and bad; None if scores are not read from the head of the language model."""
    keeps_prefixes: bool
    """Whether the tokens up to the end of a step do not depend on what follows."""


def directory_of(path_or_id: str | Path) -> Path:
    """Return the directory itself, or the directory with the model's configuration files from the hub.

    Raises FileNotFoundError if there are none.
    """
    if Path(path_or_id).is_dir():
        return Path(path_or_id)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=list(DESCRIPTIONS)))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no file or directory {path_or_id}, and the hub gave no such model "
            f"({type(error).__name__})"
        ) from error


def reader_of(
    path_or_id: str | Path, family: str | None = None, options: Mapping[str, Any] | None = None
) -> Reader:
    """Return the reader of a PRM.

    Raises LayoutError if tag, label tokens or template do not fit the tokenizer, or the family cannot be
    recognised.
    """
    check_family(family)
    directory = directory_of(path_or_id)
    family = family or recognise(directory, Path(path_or_id).name)
    tokenizer: Any = load_tokenizer(path_or_id)
    num_positions: int | None = getattr(
        load_pretrained(AutoConfig, directory).get_text_config(), "max_position_embeddings", None
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
    family_options = {name: value for name, value in (options or {}).items() if name != "reference"}
    bound = family_class(family)(tokenizer, num_positions or 0, **family_options)
    label_ids = (
        (bound.good_id, bound.bad_id) if hasattr(bound, "good_id") and hasattr(bound, "bad_id") else None
    )
    tag_id = getattr(bound, "tag_id", None)
    return Reader(
        family, bound, tokenizer, bound.max_length, num_positions, tag_id, label_ids, bound.packs_trees
    )
