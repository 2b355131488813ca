"""The demo, as small as it can be: what it prints, its status, and what its report says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fork_server import forkpoint

pytestmark = pytest.mark.slow

SMALL = {"train-problems": 13, "train-steps": 1, "test-problems": 2, "threshold-problems": 2}
SMALL |= {"samples": 3, "prefixes": 2, "rollouts": 2}


def test_the_demo_leads_with_the_default_search_and_fails_if_its_prm_learned_nothing(tmp_path: Path) -> None:
    flags = [item for name, number in SMALL.items() for item in (f"--num-{name}", number)]
    done = forkpoint("demo", "--out", "out", "--workers", 1, *flags, cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # the only step of the warm-up has the learning rate 0
    assert "WARNING: the PRM at out/prm is no better than a constant" in done.stderr
    first, second = (line for line in done.stdout.splitlines()[4:6])
    assert "policy-weighted" in first and "greedy" in second
    told = done.stdout.index("EDU policy-weighted vote of 3 (min) minus HT T=0.7 majority-of-3")
    assert told < done.stdout.index("minus HT greedy") < done.stdout.index("HT T=0.7 best-of-3 (min)")
    for part in ("1 problem was held out, with ", "gain over the constant -", "torch uses "):
        assert part in done.stdout, part
    origin = json.loads((tmp_path / "out" / "results.json").read_text())["origin"]
    assert (origin["policy"], origin["prm"]) == ("lab", "out/prm")
    assert origin["command"].startswith("forkpoint demo --out out --workers 1 --num-train-problems 13")
    summary = json.loads((tmp_path / "out/prm/training/manifest.json").read_text())["summary"]
    assert summary["num_steps"] == 1 and summary["held_out"]["num_problems"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The default search, tree-vote of 3 leaves" in page
    assert "Learning curve" in page and "no better than a constant" in page
