"""Write the folder for the hub, and upload it.

Invariant: only what `stage_prm` or `stage_labels` wrote is uploaded: a card, and the files of the model or
one file of labels. Runs, journals and locks, which name machines, are not copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from forkpoint import formats
from forkpoint.errors import LayoutError
from forkpoint.formats.labels_file import read_labelled
from forkpoint.hub.card import labels_card, prm_card
from forkpoint.hub.facts import check_labels, evaluation_facts, label_facts, training_facts
from forkpoint.hub.publication import Publication
from forkpoint.prms.layout import FORMAT_FILE, PRMFormat

RepoType = Literal["model", "dataset"]
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
LABEL_FILE = "data/train.parquet"
CARD = "README.md"
HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
"""The error that the hub's client raises if there is no answer; its class depends on the client's version."""


def repo_type_of(source: Path) -> RepoType:
    """Return `model` for the directory of a PRM, `dataset` for a label run or a file of labels."""
    return "model" if (source / FORMAT_FILE).is_file() else "dataset"


def stage_prm(
    prm: Path,
    repo_id: str,
    said: Publication,
    folder: Path,
    labels: Path | None = None,
    results: Path | None = None,
) -> None:
    """Write the folder of a PRM trained by forkpoint: links to its files, and its card.

    `labels` is the run or file it was trained on, `results` the results.json of its evaluation. Raises
    ValueError if they belong to another PRM, LayoutError if forkpoint did not save `prm`, and FileExistsError
    if the folder is not empty.
    """
    _check_repo_id(repo_id)
    if not (prm / FORMAT_FILE).is_file():
        raise LayoutError(f"{prm} is not a PRM saved by forkpoint: it has no {FORMAT_FILE}")
    training = training_facts(prm)
    if labels is not None:
        check_labels(training, labels)
    card = prm_card(
        repo_id,
        said,
        PRMFormat.load(prm),
        training,
        label_facts(labels) if labels else None,
        evaluation_facts(results, prm) if results else None,
    )
    _new(folder)
    for path in sorted(prm.iterdir()):
        if path.is_file() and path.suffix in MODEL_SUFFIXES:
            (folder / path.name).symlink_to(path.resolve())
    card.save(folder / CARD)


def stage_labels(labels: Path, repo_id: str, said: Publication, folder: Path) -> None:
    """Write the folder of a data set: the labels as Parquet, and the card.

    Raises FileNotFoundError if there are no labels.
    """
    _check_repo_id(repo_id)
    card = labels_card(repo_id, said, label_facts(labels), LABEL_FILE)
    _new(folder)
    (folder / LABEL_FILE).parent.mkdir()
    formats.write(folder / LABEL_FILE, "forkpoint", read_labelled(labels))
    card.save(folder / CARD)


def upload(folder: Path, repo_id: str, repo_type: RepoType, private: bool) -> str:
    """Create the repository if it does not exist, upload the folder as one commit, and return the URL.

    Raises PermissionError if there is no token or the hub refuses it, and ConnectionError if the hub cannot
    be reached or fails.
    """
    if get_token() is None:
        raise PermissionError("there is no hub token on this machine; run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, repo_type=repo_type, folder_path=folder, commit_message="Upload with forkpoint"
        )
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise PermissionError(
                f"the hub does not let this token write to {repo_id}: {error.server_message or error}"
            ) from error
        raise ConnectionError(
            f"the hub answered {error.response.status_code}: {error.server_message or error}"
        ) from error
    except HTTPError as error:
        raise ConnectionError(
            f"the hub at {api.endpoint} cannot be reached ({type(error).__name__}: {error})"
        ) from error
    return str(url)


def _check_repo_id(repo_id: str) -> None:
    if not re.fullmatch(r"\w[\w-]*/[\w-][\w.-]*", repo_id, re.ASCII):
        raise ValueError(f"a hub repository is named OWNER/NAME; {repo_id!r} was given")


def _new(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
