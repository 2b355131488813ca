"""Whether the labels in the directory of a label run are those that were derived from its journal."""

from __future__ import annotations

from pathlib import Path

from forkpoint.checkpoint import read_json_object
from forkpoint.doctor.finding import Finding, ok, problem
from forkpoint.errors import RunError
from forkpoint.formats.labels_file import JOURNAL_DIGEST, LABEL_CONFIG, LABELS, LABELS_DIGEST, labels_digest
from forkpoint.runs import Run
from forkpoint.runs.run import CONFIG


def examine_origin(source: Path) -> Finding | None:
    """Compare labels and journal with what was recorded when the labels were derived.

    `source` is the directory of a run or its file of labels. None if it has no labels, if they are a file of
    another name, or if an older version wrote them, which recorded nothing.
    """
    directory = source.parent if source.name == LABELS and source.is_file() else source
    beside, labels = directory / LABEL_CONFIG, directory / LABELS
    if not (beside.is_file() and labels.is_file()):
        return None
    try:
        recorded = read_json_object(beside)
    except ValueError as error:
        return problem("origin", f"{error}: derive the labels again with `forkpoint relabel {directory}`")
    if LABELS_DIGEST not in recorded:
        return None
    if recorded[LABELS_DIGEST] != labels_digest(labels):
        return problem(
            "origin",
            f"{labels} was changed after its labels were derived: derive them again with `forkpoint relabel "
            f"{directory}`, or keep other labels in a file of another name",
        )
    if (directory / CONFIG).is_file():
        try:
            with Run.read(directory) as run:
                digest = run.journal.digest
        except RunError as error:
            return problem("origin", str(error))
        if recorded.get(JOURNAL_DIGEST) != digest:
            return problem(
                "origin",
                f"the labels in {directory} were derived from another state of its journal: run its "
                f"forkpoint label again, or `forkpoint relabel {directory}`",
            )
    return ok("origin", "the labels are those that were derived from the run's journal")
