"""The families of PRMs: how the family of a checkpoint is recognised, and how a PRM is loaded.

Importing this file does not import torch.
Invariant: nothing is guessed. A head or an architecture that only one family has tells the family. A language
model looks like any other, and is taken for a PRM only under the exact name of its publication, or if the
family is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.checkpoint import read_json_object, weight_names
from forkpoint.checks import check_choice
from forkpoint.errors import LayoutError
from forkpoint.prms.layout import FORMAT_FILE, PRMFormat

if TYPE_CHECKING:
    from forkpoint.prms.family import Family, FamilyPRM
    from forkpoint.prms.tagged import TaggedPRM


@dataclass(frozen=True)
class FamilyEntry:
    """How a family of public PRMs is found: its class, and how its checkpoints are recognised."""

    module: str
    """The module in `forkpoint.prms` that holds the class."""
    class_name: str
    published: tuple[str, ...] = ()
    """Names of published checkpoints whose files do not tell that they are of the family."""
    is_language_model: bool = False
    """Whether a checkpoint of the family has nothing that other language models do not have."""
    has_classes: bool = False
    """Whether a score is the probability of a class of the model's head, so that the order of the classes
    matters."""


OURS = "forkpoint"
"""The name of the family of PRMs that forkpoint trains."""
FAMILIES = {
    "math-shepherd": FamilyEntry(
        "math_shepherd", "MathShepherd", ("math-shepherd-mistral-7b-prm",), is_language_model=True
    ),
    "er-prm": FamilyEntry("math_shepherd", "ErPRM", ("Llama3.1-Math-PRM",), is_language_model=True),
    "rlhflow": FamilyEntry(
        "rlhflow",
        "RLHFlow",
        ("Llama3.1-8B-PRM-Mistral-Data", "Llama3.1-8B-PRM-Deepseek-Data"),
        is_language_model=True,
    ),
    "implicit": FamilyEntry(
        "implicit", "Implicit", ("EurusPRM-Stage1", "EurusPRM-Stage2"), is_language_model=True
    ),
    "qwen": FamilyEntry("qwen", "QwenPRM", has_classes=True),
    "skywork": FamilyEntry("skywork", "Skywork"),
    "trl": FamilyEntry("trl", "TRL", has_classes=True),
    "pure": FamilyEntry("trl", "Pure", ("PURE-PRM-7B",), has_classes=True),
}
"""The families of other people's PRMs by name; every list of families is made from this one."""
LANGUAGE_MODELS = tuple(name for name, entry in FAMILIES.items() if entry.is_language_model)
PUBLISHED = {published: name for name, entry in FAMILIES.items() for published in entry.published}
"""The family of every published name."""
DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Patterns of the files of a checkpoint on the hub that are not weights."""


def load_checkpoint(
    path_or_id: str | Path, device: str, family: str | None, options: dict[str, Any]
) -> TaggedPRM | FamilyPRM:
    """See `forkpoint.prms.load_prm`."""
    check_family(family)
    directory = _directory(path_or_id, DESCRIPTIONS)
    family = family or recognise(directory, Path(path_or_id).name)
    if family == OURS:
        if options:
            raise ValueError(f"a PRM of the family {OURS} takes no options; {', '.join(options)} was given")
        return _load_ours(_directory(path_or_id), device)
    from forkpoint.checkpoint import device_named, fingerprint, load_tokenizer
    from forkpoint.prms.family import FamilyPRM

    model, bound = family_class(family).load(path_or_id, load_tokenizer(path_or_id), "auto", **options)
    settings = [family, *(f"{name}={value}" for name, value in sorted(options.items()))]
    return FamilyPRM(
        model.to(device_named(device)),
        bound,
        f"{Path(path_or_id).resolve().name}-{fingerprint(directory, *settings)}",
    )


def check_family(family: str | None) -> None:
    """Raise ValueError unless `family` is a known name; None leaves it to the files of the checkpoint."""
    if family is not None:
        check_choice("PRM family", family, (OURS, *FAMILIES))


def recognise(directory: Path, published_name: str = "") -> str:
    """Return the family of the checkpoint in a directory.

    LayoutError if its files do not tell, ValueError if one of them is damaged.
    """
    if (directory / FORMAT_FILE).is_file():
        return OURS
    if not (directory / "config.json").is_file():
        raise LayoutError(f"{directory} holds no PRM: it has neither {FORMAT_FILE} nor config.json")
    config = read_json_object(directory / "config.json")
    architectures: list[str] = config.get("architectures") or []
    name = PUBLISHED.get(published_name)
    if "Qwen2ForProcessRewardModel" in architectures:
        return "qwen"
    if "Qwen2ForPrmModel" in architectures or "v_head.summary.weight" in _weight_names(directory):
        return "skywork"
    if any(architecture.endswith("ForTokenClassification") for architecture in architectures):
        return name if name == "pure" else "trl"
    if name in LANGUAGE_MODELS:
        return name
    raise LayoutError(
        f"{directory} does not tell which PRM it is: "
        f"a {', '.join(architectures) or 'model without architecture'}"
        f"{_fitting(directory, architectures)}. Name its family: {', '.join(FAMILIES)}"
    )


def family_class(name: str) -> type[Family]:
    """Return the class of a family; imports its module."""
    entry = FAMILIES[name]
    found: type[Family] = getattr(import_module(f"forkpoint.prms.{entry.module}"), entry.class_name)
    return found


def _fitting(directory: Path, architectures: Sequence[str]) -> str:
    """Return, for a language model, which families its tokens would fit; an empty text for other models."""
    if not any(architecture.endswith("ForCausalLM") for architecture in architectures):
        return ""
    from forkpoint.checkpoint import load_tokenizer

    tokenizer, fitting = load_tokenizer(directory), []
    for name in LANGUAGE_MODELS:
        try:
            family_class(name)(tokenizer, 1)
        except LayoutError:
            continue
        fitting.append(name)
    return (
        f", whose tokens would do for {', '.join(fitting) or 'none of the families that are language models'}"
    )


def _weight_names(directory: Path) -> set[str]:
    index, weights = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.is_file():
        return set(read_json_object(index).get("weight_map") or ())
    return weight_names(weights) if weights.is_file() else set()


def _directory(path_or_id: str | Path, patterns: Sequence[str] | None = None) -> Path:
    """Return the directory itself, or that of the downloaded files of the hub; `patterns` None takes all."""
    if Path(path_or_id).is_dir():
        return Path(path_or_id)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=list(patterns) if patterns else None))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no PRM directory {path_or_id}, and no such model on the hub can be had "
            f"({type(error).__name__}); "
            "train one with `forkpoint train`"
        ) from error


def _load_ours(directory: Path, device: str) -> TaggedPRM:
    from forkpoint.prms.tagged import TaggedPRM

    prm_format = PRMFormat.load(directory)
    config = read_json_object(directory / "config.json")
    if "Qwen2ForProcessRewardModel" not in (config.get("architectures") or []):
        return TaggedPRM.load(directory, device)
    from forkpoint.checkpoint import device_named, fingerprint, load_tokenizer
    from forkpoint.prms.family import load_weights
    from forkpoint.prms.qwen import Qwen2ForProcessRewardModel

    model = load_weights(Qwen2ForProcessRewardModel, directory, "auto", "qwen").to(device_named(device))
    return TaggedPRM(
        model, load_tokenizer(directory), prm_format, f"{directory.resolve().name}-{fingerprint(directory)}"
    )
