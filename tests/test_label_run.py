"""The label stage: trees into a run, labels out of it, and nothing lost when it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forkpoint.cli.label import relabel_command
from forkpoint.cli.train import train
from forkpoint.doctor.data import examine_data
from forkpoint.doctor.label_run import examine_origin
from forkpoint.errors import ConfigDiffers
from forkpoint.formats.labels_file import read_labelled
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan, tree_outcomes
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import LabelSummary, label_format, label_problems, write_labels
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Completion, Problem, Request
from forkpoint.runs import LocalExecutor, Run
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"The answer is 1": 0.55, "The answer is 2": 0.45},
    "two\n": {"The answer is 1": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", str(1 + idx % 2)) for idx in range(10)]
TREE = TreeConfig(tau=0.5, num_leaves=4)
QUIET = LocalExecutor(chunk_size=4, progress=False)


class ShortPolicy(ScriptedPolicy):
    """A scripted policy whose context holds 14 tokens."""

    @property
    def max_length(self) -> int:  # type: ignore[override]
        return 14


def test_labels_are_the_leaves_below_each_line(tmp_path: Path) -> None:
    summary = label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", TREE, LabelConfig(), QUIET)
    assert (summary.num_solutions, summary.num_failed, summary.num_skipped) == (30, 0, 0)
    labelled = list(read_labelled(tmp_path / "run"))
    first = {
        item.steps: [label.value for label in item.labels] for item in labelled if item.problem_id == "p0"
    }
    assert first == {
        ("one\n", "The answer is 1"): [0.5, 1.0],
        ("two\n", "The answer is 1"): [1.0, 1.0],
        ("one\n", "The answer is 2"): [0.5, 0.0],
    }
    assert summary.num_correct == 5 * 2 + 5 * 1
    assert summary.num_labels == 60


def test_labels_from_which_nothing_can_be_learned_are_said_to_be(tmp_path: Path) -> None:
    def summary(name: str, problems: Sequence[Problem], num_leaves: int) -> LabelSummary:
        tree = replace(TREE, num_leaves=num_leaves)
        return label_problems(problems, ScriptedPolicy(SCRIPT), tmp_path / name, tree, LabelConfig(), QUIET)

    fine = summary("fine", PROBLEMS, 4)
    assert (fine.num_inner_labels, fine.num_single_labels, fine.warnings) == (30, 10, ())
    (wrong,) = summary("wrong", [replace(problem, answer="3") for problem in PROBLEMS], 4).warnings
    assert wrong.startswith("0 of 30 solutions are right") and "easier problems" in wrong
    right, single = summary("right", PROBLEMS[::2], 1).warnings
    assert right.startswith("5 of 5 solutions are right") and "harder problems" in right
    assert single.startswith("5 of 5 labels of steps before the last (100%) rest on one outcome")


@pytest.mark.parametrize("plan", [LeafPlan(), RolloutPlan("samples", num_solutions=3, num_rollouts=4)])
def test_a_solution_that_was_cut_off_counts_as_wrong_and_is_counted(
    tmp_path: Path, plan: LeafPlan | RolloutPlan
) -> None:
    """The third token of every solution of the script is the end token."""

    def summary(max_tokens: int) -> LabelSummary:
        tree, out = replace(TREE, max_tokens=max_tokens), tmp_path / str(max_tokens)
        return label_problems(
            PROBLEMS, ScriptedPolicy(SCRIPT), out, tree, LabelConfig(), QUIET, Sampling(plan)
        )

    whole, cut = summary(3), summary(2)
    assert whole.num_correct > 0 and whole.num_cut_off == whole.num_rollouts_cut_off == 0
    assert cut.num_correct == 0 and cut.num_cut_off == cut.num_solutions == 30
    assert cut.num_rollouts_cut_off == cut.num_rollouts
    assert "were cut off and count as wrong" in cut.warnings[0]
    assert {label.value for item in read_labelled(tmp_path / "2") for label in item.labels} == {0.0}


def test_a_journal_keeps_the_verdict_that_was_written(tmp_path: Path) -> None:
    """Earlier versions graded solutions that were cut off; labels of their journals stay as they were."""
    tree = replace(TREE, max_tokens=2)
    label_problems(PROBLEMS[:1], ScriptedPolicy(SCRIPT), tmp_path, tree, LabelConfig(), QUIET)
    (row,) = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [branch["finish"] for branch in row["branches"]] == ["length"] * 3
    outcome = TreeOutcome.from_row({**row, "ends": [{**end, "is_correct": True} for end in row["ends"]]})
    assert [end.is_correct for end in outcome.ends] == [True] * 3


def test_labels_are_derived_again_without_the_policy(tmp_path: Path) -> None:
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", TREE, LabelConfig(), QUIET)
    with Run.read(tmp_path / "run") as run:
        write_labels(run, LabelConfig(value="hit", segmentation="entropy", weighting="policy"))
    labelled = list(read_labelled(tmp_path / "run"))
    assert {item.steps for item in labelled if item.problem_id == "p1"} == {
        ("one\n", "The answer is 1"), ("two\nThe answer is 1",), ("one\n", "The answer is 2"),
    }  # fmt: skip
    assert {label.value for item in labelled for label in item.labels} == {0.0, 1.0}
    assert label_format(tmp_path / "run", PRMFormat()) == PRMFormat(segmentation="entropy", rule=TREE.rule)


def test_trees_come_back_from_the_journal_as_they_were(tmp_path: Path) -> None:
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", TREE, LabelConfig(), QUIET)
    with Run.read(tmp_path / "run") as run:
        rows, outcomes = list(run.rows()), list(tree_outcomes(run))
    assert [json.loads(json.dumps(outcome.to_row())) for outcome in outcomes] == rows
    assert [TreeOutcome.from_row(outcome.to_row()) for outcome in outcomes] == outcomes
    solutions = outcomes[0].solutions()
    assert [solution.text for solution in solutions] == [
        "one\nThe answer is 1",
        "two\nThe answer is 1",
        "one\nThe answer is 2",
    ]
    assert sum(solution.num_sampled_tokens for solution in solutions) == outcomes[0].cost.sampled_tokens


def test_a_finished_run_is_used_not_redone(tmp_path: Path) -> None:
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", TREE, LabelConfig(), QUIET)
    again = ScriptedPolicy(SCRIPT)
    label_problems(PROBLEMS, again, tmp_path / "run", TREE, LabelConfig(), QUIET)
    assert again.requests == []
    with pytest.raises(ConfigDiffers, match=r"tree\.num_leaves: 4 there, 5 here"):
        label_problems(PROBLEMS, again, tmp_path / "run", replace(TREE, num_leaves=5), LabelConfig(), QUIET)


def test_prompts_that_do_not_fit_are_counted_not_dropped(tmp_path: Path) -> None:
    problems = [*PROBLEMS, Problem("long", "a question that is far too long", "1")]
    summary = label_problems(problems, ShortPolicy(SCRIPT), tmp_path / "run", TREE, LabelConfig(), QUIET)
    assert (summary.num_solved, summary.num_skipped) == (10, 1)
    with Run.read(tmp_path / "run") as run:
        assert {len(item.path(0).completion) for item in tree_outcomes(run)} <= {2, 3}


class FailingPolicy(ScriptedPolicy):
    """Fails on one problem as long as it is told to."""

    is_failing = True

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        if self.is_failing and any(
            self.decode(request.prefix_ids).startswith("question 5") for request in requests
        ):
            raise ConnectionError("the engine went away")
        return super().generate(requests)


def test_failed_problems_are_owed_again(tmp_path: Path) -> None:
    policy = FailingPolicy(SCRIPT)
    summary = label_problems(PROBLEMS, policy, tmp_path / "run", TREE, LabelConfig(), QUIET)
    assert (summary.num_solved, summary.num_failed) == (6, 4)  # the whole chunk of four
    assert "the engine went away" in (tmp_path / "run" / "failures.jsonl").read_text()
    policy.is_failing = False
    assert label_problems(PROBLEMS, policy, tmp_path / "run", TREE, LabelConfig(), QUIET).num_solved == 10


def test_tau_is_calibrated_to_the_asked_number_of_anchors(tmp_path: Path) -> None:
    config = replace(TREE, anchors_per_solution=1.0)
    summary = label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", config, LabelConfig(), QUIET)
    assert 0.673 < summary.tau < 0.6882  # between the entropies after "" and after "one"
    assert summary.num_solutions == 20


LABEL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_label_run import LABELLED_WHEN_KILLED, slow_policy, TREE
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import label_problems
from forkpoint.runs import LocalExecutor
executor = LocalExecutor(chunk_size=3, progress=False)
label_problems(LABELLED_WHEN_KILLED, slow_policy(), Path(sys.argv[1]), TREE, LabelConfig(), executor)
"""
LABELLED_WHEN_KILLED = [Problem(f"p{idx}", f"question {idx}", str(1 + idx % 2)) for idx in range(120)]


def test_relabel_says_whether_the_run_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), run, TREE, LabelConfig(), QUIET)
    relabel_command(run, out=tmp_path / "whole.jsonl")
    assert "not finished" not in capsys.readouterr().err
    (run / "manifest.json").unlink()
    relabel_command(run, out=tmp_path / "part.jsonl")
    assert "is not finished: the labels are those of the problems that are done" in " ".join(
        capsys.readouterr().err.split()
    )


def verdict_on(run: Path) -> tuple[str, str]:
    found = examine_origin(run)
    assert found is not None
    return found.verdict, found.text


def test_labels_that_do_not_belong_to_the_journal_are_noticed(tmp_path: Path) -> None:
    run, labels = tmp_path / "run", tmp_path / "run" / "labels.jsonl"
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), run, TREE, LabelConfig(), QUIET)
    assert verdict_on(run)[0] == "ok"
    whole = labels.read_text()
    labels.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    verdict, text = verdict_on(run)
    assert verdict == "problem" and "was changed after its labels were derived" in text
    finding = next(item for item in examine_data(str(run)) if item.check == "origin")
    assert finding.verdict == "problem"
    with pytest.raises(ValueError, match="was changed after its labels were derived"):
        train(run, out=tmp_path / "prm")
    assert not (tmp_path / "prm").exists()

    relabel_command(run)
    assert verdict_on(run)[0] == "ok" and labels.read_text() == whole
    label_config = json.loads((run / "label_config.json").read_text())
    (run / "label_config.json").write_text(
        json.dumps({name: value for name, value in label_config.items() if not name.endswith("_digest")})
    )
    assert examine_origin(run) is None  # an older version recorded nothing
    assert label_format(run, PRMFormat()).segmentation == "newline"


def test_labels_of_an_earlier_state_of_the_journal_are_noticed(tmp_path: Path) -> None:
    policy, run = FailingPolicy(SCRIPT), tmp_path / "run"
    label_problems(PROBLEMS, policy, run, TREE, LabelConfig(), QUIET)
    assert verdict_on(run)[0] == "ok"  # not finished, and its labels are those of its rows
    earlier = {name: (run / name).read_bytes() for name in ("labels.jsonl", "label_config.json")}
    policy.is_failing = False
    label_problems(PROBLEMS, policy, run, TREE, LabelConfig(), QUIET)
    assert verdict_on(run)[0] == "ok"
    for name, content in earlier.items():
        (run / name).write_bytes(content)
    verdict, text = verdict_on(run)
    assert verdict == "problem" and "from another state of its journal" in text


def test_labels_that_are_given_as_a_file_are_compared_too(tmp_path: Path) -> None:
    run, labels = tmp_path / "run", tmp_path / "run" / "labels.jsonl"
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), run, TREE, LabelConfig(), QUIET)
    assert verdict_on(labels) == verdict_on(run)
    assert verdict_on(labels)[0] == "ok"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    assert verdict_on(labels)[0] == "problem"
    with pytest.raises(ValueError, match="was changed after its labels were derived"):
        train(labels, out=tmp_path / "prm")
    copied = labels.rename(run / "mine.jsonl")
    assert examine_origin(copied) is None  # a file of another name is the user's own


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"plan": "lea', "label_config.json is not JSON"),
        ("[]", "label_config.json holds a list"),
        (None, "from another state of its journal"),
    ],
)
def test_a_damaged_label_config_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    run = tmp_path / "run"
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), run, TREE, LabelConfig(), QUIET)
    beside = run / "label_config.json"
    if content is None:
        fields = json.loads(beside.read_text())
        del fields["journal_digest"]
        content = json.dumps(fields)
    beside.write_text(content)
    verdict, text = verdict_on(run)
    assert verdict == "problem" and message in text and "forkpoint relabel" in text
    relabel_command(run)
    assert verdict_on(run)[0] == "ok"


def test_a_damaged_journal_is_a_finding_about_its_labels(tmp_path: Path) -> None:
    run = tmp_path / "run"
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), run, TREE, LabelConfig(), QUIET)
    journal = run / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"key", b"kex", 1))
    verdict, text = verdict_on(run)
    assert verdict == "problem" and "line 1 of" in text and "is damaged" in text
    assert "origin" in [item.check for item in examine_data(str(run))]
    with pytest.raises(ValueError, match="is damaged"):
        train(run, out=tmp_path / "prm")


class SlowPolicy(ScriptedPolicy):
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        time.sleep(0.01)
        return super().generate(requests)


def slow_policy() -> ScriptedPolicy:
    return SlowPolicy(SCRIPT, name="slow")


@pytest.mark.slow
def test_killed_at_20_random_moments_the_journal_is_the_uninterrupted_one(tmp_path: Path) -> None:
    program = tmp_path / "label.py"
    program.write_text(LABEL.format(tests=str(Path(__file__).parent)))

    def start(run: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(program), str(tmp_path / run)], env={**os.environ, "PYTHONWARNINGS": "error"}
        )

    assert start("once").wait() == 0
    rng = random.Random(0)
    num_kills, sizes = 0, []
    while num_kills < 20:
        process = start("often")
        before = size(tmp_path / "often")
        deadline = time.monotonic() + 60
        while process.poll() is None and size(tmp_path / "often") <= before and rng.random() > 0.001:
            assert time.monotonic() < deadline, "no row in a minute"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            num_kills += 1
        process.wait()
        sizes.append(size(tmp_path / "often"))
        if sizes[-1] == size(tmp_path / "once"):
            break
    assert num_kills >= 15, "the work was over too soon for the test to mean anything"
    assert sizes == sorted(sizes), "rows were lost"
    assert start("often").wait() == 0
    assert (tmp_path / "often" / "journal.jsonl").read_bytes() == (
        tmp_path / "once" / "journal.jsonl"
    ).read_bytes()
    assert (tmp_path / "often" / "labels.jsonl").read_bytes() == (
        tmp_path / "once" / "labels.jsonl"
    ).read_bytes()


def size(run: Path) -> int:
    journal = run / "journal.jsonl"
    return journal.stat().st_size if journal.exists() else 0
