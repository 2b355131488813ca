"""`forkpoint push`: a PRM or labels to the hub, with a card."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import out_console
from forkpoint.hub.publication import Publication


@app.command
def push(
    source: Path,
    repo_id: str,
    *,
    said: Annotated[Publication, Flat],
    labels: Path | None = None,
    evaluation: Path | None = None,
    private: bool = False,
    dry_run: bool = False,
    out: Path | None = None,
) -> int:
    """Upload a PRM or labels to the hub, with a card that is written from the runs; see docs/how-to/push.md.

    Parameters
    ----------
    source
        A directory made by `forkpoint train`, a label run, or a file of labels (labels.jsonl).
    repo_id
        OWNER/NAME on the hub; created if it does not exist.
    labels
        For a PRM: the label run or the file of labels that it was trained on.
    evaluation
        For a PRM: the results.json that `forkpoint evaluate` wrote for it.
    private
        Make the repository private if it is new.
    dry_run
        Upload nothing; write the folder that would be uploaded to OUT.
    out
        With --dry-run: a new folder.
    """
    from forkpoint.hub.push import repo_type_of, stage_labels, stage_prm, upload

    if dry_run != (out is not None):
        raise ValueError("--dry-run and --out FOLDER belong together: give both, or neither to upload")
    repo_type = repo_type_of(source)
    if repo_type == "dataset" and (labels or evaluation):
        raise ValueError(
            f"{source} is not a PRM; --labels and --evaluation say how a PRM was trained and measured"
        )
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary) / "folder"
        if repo_type == "model":
            stage_prm(source, repo_id, said, folder, labels, evaluation)
        else:
            stage_labels(source, repo_id, said, folder)
        where = str(folder) if dry_run else upload(folder, repo_id, repo_type, private)
    out_console.print(f"{'Written' if dry_run else 'Uploaded'}: {where}", highlight=False, soft_wrap=True)
    return 0
