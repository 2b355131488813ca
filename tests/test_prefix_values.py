"""True values: many rollouts agree with the script's own probabilities, and labels are held against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkpoint.evaluation.label_truth import PrefixConfig, measure_labels
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy
from forkpoint.records import Problem
from forkpoint.runs import Run
from test_label_run import QUIET, SCRIPT, TREE


def test_rollouts_find_the_scripts_probabilities_once(tmp_path: Path) -> None:
    policy = ScriptedPolicy(SCRIPT)
    label_problems([Problem("p", "question", "1")], policy, tmp_path / "labels", TREE, LabelConfig(), QUIET)
    config = PrefixConfig(num_prefixes=10, num_rollouts=400)
    found = measure_labels(tmp_path / "labels", policy, tmp_path / "truth", config, QUIET, max_tokens=20)
    with Run.read(tmp_path / "truth") as run:
        shares = sorted(sum(row["correct"]) / len(row["correct"]) for row in run.rows())
    assert shares == [
        pytest.approx(0.55, abs=0.08),
        1.0,
    ]  # after "one" the script is right in .55, after "two" always
    assert found.quality["uniform"].num_labels == 2
    assert found.quality["uniform"].mae == pytest.approx(abs(shares[0] - 0.5) / 2)
    assert found.quality["policy"].mae == pytest.approx(abs(shares[0] - 0.55) / 2, abs=1e-6)
    again = ScriptedPolicy(SCRIPT)
    assert (
        measure_labels(tmp_path / "labels", again, tmp_path / "truth", config, QUIET, max_tokens=20) == found
    )
    assert again.requests == []
