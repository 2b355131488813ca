"""Verdicts on public data sets, compared with those of an earlier version.

`fixtures/verdicts_before.json` has the counts and a digest of the verdicts at the commit that it names,
and every verdict that is different now. All of these were looked at: answers under a heading `# Answer`
are read (PRM800K, PRMBench), and matrices, numbers in another base and two amounts are no single number.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from forkpoint.grading.grade import grade_all
from grading_sets import DATA, SETS, graded_sets

pytestmark = pytest.mark.slow

BEFORE = json.loads((Path(__file__).parent / "fixtures" / "verdicts_before.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real data sets at {DATA} (set FORKPOINT_DATA)")
@pytest.mark.parametrize(("name", "grader"), graded_sets())
def test_verdicts_are_those_of_before_but_for_the_listed_differences(name: str, grader: str) -> None:
    before = BEFORE["sets"][f"{name}, {grader}"]
    outcomes = [verdict.outcome for verdict in grade_all(SETS[name](), grader, timeout_s=10.0)]
    for idx, (was, is_now) in before["differences"].items():
        assert outcomes[int(idx)] == is_now
        outcomes[int(idx)] = was
    counts = {outcome: outcomes.count(outcome) for outcome in ("correct", "wrong", "ungradable")}
    assert counts == before["counts"]
    letters = "".join(outcome[0] for outcome in outcomes)
    assert hashlib.sha256(letters.encode()).hexdigest() == before["sha256"]


def test_no_right_answer_became_wrong() -> None:
    """The only reference that was met before is 5, and the answer is 5 in base 5 (`1220_5`)."""
    lost = {
        (name, idx)
        for name, found in BEFORE["sets"].items()
        for idx, (was, _) in found["differences"].items()
        if was == "correct"
    }
    assert lost == {("prm800k, numeric", "109")}
