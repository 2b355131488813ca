"""Whether the labels in the directory of a label run are those that were derived from its journal."""

from __future__ import annotations

import json
from pathlib import Path

from forkpoint.doctor.finding import Finding, ok, problem
from forkpoint.formats.labels_file import JOURNAL_DIGEST, LABEL_CONFIG, LABELS, LABELS_DIGEST, labels_digest
from forkpoint.runs import Run
from forkpoint.runs.run import CONFIG


def examine_origin(directory: Path) -> Finding | None:
    """Compare labels and journal with what was recorded when the labels were derived.

    None if `directory` has no labels, or if an older version wrote them, which recorded nothing.
    """
    beside, labels = directory / LABEL_CONFIG, directory / LABELS
    if not (beside.is_file() and labels.is_file()):
        return None
    recorded = json.loads(beside.read_text(encoding="utf-8"))
    if LABELS_DIGEST not in recorded:
        return None
    if recorded[LABELS_DIGEST] != labels_digest(labels):
        return problem(
            "origin",
            f"{labels} was changed after its labels were derived: derive them again with `forkpoint relabel "
            f"{directory}`, or keep other labels in a file of another name",
        )
    if (directory / CONFIG).is_file():
        with Run.read(directory) as run:
            if recorded[JOURNAL_DIGEST] != run.journal.digest:
                return problem(
                    "origin",
                    f"the labels in {directory} were derived from another state of its journal: run its "
                    f"forkpoint label again, or `forkpoint relabel {directory}`",
                )
    return ok("origin", "the labels are those that were derived from the run's journal")
