"""RAFT: what is kept, learned and refused, the learning rates, and runs that are stopped at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import make_checkpoint
from forkpoint.checkpoint import fingerprint
from forkpoint.errors import ConfigDiffers, LayoutError, RunLocked
from forkpoint.experiments.raft import raft
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.raft_inputs import RaftInputs, check_prm
from forkpoint.experiments.raft_report import RaftReport
from forkpoint.policies import ScriptedPolicy, load_policy
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.scores import scores_or_refusals
from forkpoint.prms.tagged import TaggedPRM
from forkpoint.problems import load_problems
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor, Run
from forkpoint.solutions.outcomes import SampleOutcome
from forkpoint.training.config import SFTConfig

SCRIPT = {
    "": {"one\n": 0.5, "two\n": 0.3, "long\n": 0.2},
    "one\n": {"The answer is 1": 0.5, "The answer is 3": 0.5},
    "two\n": {"The answer is 3": 0.5, "The answer is 2": 0.5},
    "long\n": {"on and on ": 1.0},
    "long\non and on ": {"on and on and on and on and on": 1.0},
    "long\non and on on and on and on and on and on": {"The answer is 3": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "3") for idx in range(12)]
EVAL_PROBLEMS = [Problem(f"e{idx}", f"other {idx}", "3") for idx in range(3)]
QUIET = LocalExecutor(chunk_size=4, progress=False)
PICKING = RaftConfig(num_iterations=1, num_samples=8, max_tokens=3, num_eval_samples=2)
LEARNING = RaftConfig(
    num_iterations=2, num_samples=12, num_prompts=4, max_tokens=40, num_eval_samples=2,
    sft=SFTConfig(learning_rate=4e-3, num_epochs=3, batch_size=2, micro_batch_size=2, save_every=2),
)  # fmt: skip


class Stopped(Exception):
    pass


class LikingScorer:
    """Scores a step by the first of its favourites that is in it; cannot read what it hates."""

    def __init__(self, likes: Sequence[str], hates: str | None = None) -> None:
        self.name, self._likes, self._hates = f"likes {likes}, hates {hates}", likes, hates

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        if self._hates and any(self._hates in "".join(solution) for solution in steps):
            raise LayoutError(f"{self._hates} cannot be read")
        return [[self._of(step) for step in solution] for solution in steps]

    def _of(self, step: str) -> float:
        return next((0.9 - 0.1 * idx for idx, text in enumerate(self._likes) if text in step), 0.1)


class LengthScorer:
    """Likes short steps, whatever they say."""

    name = "length"

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[1 / (1 + len(step)) for step in solution] for solution in steps]


def stop_at(wanted: str) -> Callable[[str], None]:
    def on_stage(stage: str) -> None:
        if stage == wanted:
            raise Stopped

    return on_stage


def scripted(**changes: Any) -> RaftInputs:
    inputs = RaftInputs(PROBLEMS, EVAL_PROBLEMS, "script", load=lambda name: ScriptedPolicy(SCRIPT))
    return replace(inputs, **changes)


def picked(
    out: Path, config: RaftConfig = PICKING, prm: Any = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the first iteration keeps from the script, and its counts; nothing is trained."""
    with pytest.raises(Stopped):
        raft(scripted(prm=prm), out, config, QUIET, on_stage=stop_at("iteration 1: fine-tune"))
    with Run.read(out) as run:
        counts = next(run.rows(["1/kept"]))
    return [json.loads(line) for line in (out / "iter-1" / "kept.jsonl").read_text().splitlines()], counts


def sampled(out: Path) -> dict[str, SampleOutcome]:
    with Run.read(out / "iter-1" / "samples") as run:
        outcomes = [SampleOutcome.from_row(row) for row in run.rows() if row["kind"] == "samples"]
    return {outcome.problem.id: outcome for outcome in outcomes}


def test_the_prm_keeps_the_first_of_its_best_completions_right_or_wrong(tmp_path: Path) -> None:
    kept, counts = picked(tmp_path, prm=LikingScorer(["two", "answer is 2", "answer"]))
    outcomes = sampled(tmp_path)
    ranking = ["two\nThe answer is 2", "two\nThe answer is 3", "one\nThe answer is 1", "one\nThe answer is 3"]
    worth = dict(zip(ranking, (0.8, 0.7, 0.1, 0.1), strict=True))  # the least of two steps
    for row in kept:
        texts = [path.text for path in outcomes[row["problem_id"]].paths]
        values = [worth.get(text, 0.0) for text in texts]
        assert row["sample_idx"] == values.index(max(values))
        assert row["text"] == texts[row["sample_idx"]]
        assert row["score"] == pytest.approx(max(values))
        assert row["is_correct"] == row["text"].endswith("3")
    assert len(kept) == counts["num_kept"] == 12
    assert counts["kept_accuracy"] == sum(row["is_correct"] for row in kept) / 12 < 0.5
    assert (
        counts["num_unfinished"]
        == sum(path.text.startswith("long") for item in outcomes.values() for path in item.paths)
        > 5
    )


def test_another_aggregate_can_keep_another_completion(tmp_path: Path) -> None:
    scorer = LikingScorer(
        ["one", "answer is 2", "answer is 3"]
    )  # least: two + 2 is .1, one + 3 is .7; last: two + 2 is .8
    for how, answer in [("last", "2"), ("min", "3")]:
        kept, _ = picked(tmp_path / how, replace(PICKING, num_samples=32, aggregate=how), scorer)  # type: ignore[arg-type]
        assert {row["text"][-1] for row in kept} == {answer}


def test_outcome_selection_keeps_any_right_completion_and_drops_prompts_without_one(tmp_path: Path) -> None:
    config = replace(PICKING, select="outcome", num_samples=3)
    kept, counts = picked(tmp_path / "a", config)
    outcomes = sampled(tmp_path / "a")
    right = {
        name: [
            idx
            for idx, (end, path) in enumerate(zip(outcome.ends, outcome.paths, strict=True))
            if end.is_correct
        ]
        for name, outcome in outcomes.items()
    }
    assert all(row["sample_idx"] in right[row["problem_id"]] for row in kept)
    assert any(row["sample_idx"] != right[row["problem_id"]][0] for row in kept)
    assert {row["problem_id"] for row in kept} == {name for name, idxs in right.items() if idxs}
    assert counts["num_dropped"] == 12 - len(kept) > 0
    assert counts["kept_accuracy"] == 1.0
    assert counts["sample_accuracy"] == sum(map(len, right.values())) / 36
    assert picked(tmp_path / "b", config)[0] == kept
    assert picked(tmp_path / "c", replace(config, seed=1))[0] != kept


def test_what_the_prm_cannot_read_is_refused_and_counted(tmp_path: Path) -> None:
    kept, counts = picked(tmp_path, prm=LikingScorer(["answer is 2", "two"], hates="answer is 2"))
    num_hated = sum("answer is 2" in path.text for item in sampled(tmp_path).values() for path in item.paths)
    assert counts["num_refused"] == num_hated > 5
    assert not any("answer is 2" in row["text"] for row in kept)
    assert counts["num_kept"] + counts["num_dropped"] == 12


def test_one_refusal_costs_no_other_solution_its_scores() -> None:
    solutions = [
        (f"q{idx}", ("two\n" if idx % 2 else "one\n", "bad" if idx in (3, 4) else "good")) for idx in range(7)
    ]
    scores = scores_or_refusals(LikingScorer(["two"], hates="bad"), solutions)
    assert [None if isinstance(item, LayoutError) else item[0] for item in scores] == [
        0.1,
        0.9,
        0.1,
        None,
        None,
        0.9,
        0.1,
    ]
    assert scores_or_refusals(LikingScorer([]), []) == []


def test_an_iteration_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"iteration 1 has nothing to learn from.*num_unfinished=96"):
        raft(scripted(), tmp_path, replace(PICKING, max_tokens=1, select="outcome"), QUIET)


def test_the_learning_rate_falls_by_a_share_of_itself_per_iteration() -> None:
    assert [RaftConfig(num_iterations=4).learning_rate(t) for t in (1, 2, 3, 4)] == pytest.approx(
        [5e-7, 3.75e-7, 2.5e-7, 1.25e-7]
    )
    assert RaftConfig(num_iterations=1).learning_rate(1) == 5e-7


def test_iterations_take_the_next_problems_and_begin_again_after_the_last() -> None:
    config = RaftConfig(num_prompts=5)
    ids = [[item.id for item in config.prompts(PROBLEMS, iteration)] for iteration in (1, 2, 3)]
    assert ids == [[f"p{idx % 12}" for idx in range(start, start + 5)] for start in (0, 5, 10)]
    assert RaftConfig().prompts(PROBLEMS, 3) == PROBLEMS


def learned(out: Path, base: Path, config: RaftConfig = LEARNING, **hooks: Any) -> RaftReport:
    inputs = RaftInputs(PROBLEMS[:8], EVAL_PROBLEMS, str(base), LengthScorer())
    return raft(inputs, out, config, QUIET, **hooks)


STAGES = ["iteration 0: evaluate"] + [
    f"iteration {t}: {stage}" for t in (1, 2) for stage in ("sample", "score", "fine-tune", "evaluate")
]


def files_of(out: Path) -> dict[str, bytes]:
    """All that a run is asked for, and the journals it came from."""
    names = ["raft.json", "journal.jsonl", "iter-0/evaluate/journal.jsonl"]
    for t in (1, 2):
        names += [
            f"iter-{t}/{name}"
            for name in (
                "kept.jsonl",
                "policy/model.safetensors",
                "samples/journal.jsonl",
                "evaluate/journal.jsonl",
            )
        ]
    return {name: (out / name).read_bytes() for name in names}


def kill_in_training(out: Path, base: Path) -> None:
    """Die by SIGKILL at the third step of the second fine-tuning, after a checkpoint."""

    def on_step(num_done: int, num_steps: int, loss: float) -> None:
        if num_done == 3 and (out / "iter-2" / "kept.jsonl").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    learned(out, base, on_step=on_step)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RaftReport, list[str]]:
    """A run that was never stopped: its base, its directory, what it returned and the stages it named."""
    folder = tmp_path_factory.mktemp("raft")
    base, stages = make_checkpoint(folder / "base", initializer_range=0.2), list[str]()
    return base, folder / "once", learned(folder / "once", base, on_stage=stages.append), stages


Finished = tuple[Path, Path, RaftReport, list[str]]


@pytest.mark.slow
def test_a_run_that_is_stopped_at_every_stage_and_killed_once_comes_to_the_same_bytes(
    tmp_path: Path, finished: Finished
) -> None:
    base, once, expected, stages = finished
    assert stages == STAGES
    out = tmp_path / "often"
    for stage in STAGES:
        with pytest.raises(Stopped):
            learned(out, base, on_stage=stop_at(stage))
        if stage == "iteration 2: fine-tune":
            killed = multiprocessing.get_context("fork").Process(target=kill_in_training, args=(out, base))
            killed.start()
            killed.join()
            assert killed.exitcode == -signal.SIGKILL
            checkpoints = out / "iter-2" / "policy" / "training" / "checkpoints"
            assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
    assert learned(out, base) == expected
    assert files_of(out) == files_of(once)


def test_a_finished_run_is_not_done_again_and_another_configuration_is_refused(finished: Finished) -> None:
    base, once, expected, _ = finished
    before, stages = files_of(once), list[str]()
    assert learned(once, base, on_stage=stages.append) == expected
    assert stages == []
    other = replace(LEARNING, num_samples=7, sft=replace(LEARNING.sft, num_epochs=1.0))
    with pytest.raises(
        ConfigDiffers, match=r"raft.num_samples: 12 there, 7 here\n  raft.sft.num_epochs: 3 there, 1.0 here"
    ):
        learned(once, base, other)
    with (
        Run.open(once, "raft", json.loads((once / "config.json").read_text())["config"]),
        pytest.raises(RunLocked),
    ):
        learned(once, base)
    assert files_of(once) == before


def test_every_iteration_continues_the_policy_before_at_its_own_rate(finished: Finished) -> None:
    base, once, _, _ = finished
    settings = [
        json.loads((once / f"iter-{t}" / "policy" / "training" / "config.json").read_text())["config"]
        for t in (1, 2)
    ]
    assert [item["sft"]["learning_rate"] for item in settings] == [4e-3, 2e-3]
    assert settings[0]["seed"] != settings[1]["seed"]
    assert [item["base"] for item in settings] == [fingerprint(base), fingerprint(once / "iter-1" / "policy")]
    with Run.read(once / "iter-2" / "samples") as run:
        assert run.config["policy"] == load_policy(str(once / "iter-1" / "policy")).name
    kept = [
        [json.loads(line) for line in (once / f"iter-{t}" / "kept.jsonl").read_text().splitlines()]
        for t in (1, 2)
    ]
    assert {row["problem_id"] for row in kept[0]} <= {"p0", "p1", "p2", "p3"}
    assert {row["problem_id"] for row in kept[1]} <= {"p4", "p5", "p6", "p7"}
    policy = load_policy(str(base))
    for row in [*kept[0], *kept[1]]:
        assert tuple(row["prompt_ids"]) == policy.encode_question(row["question"])
        assert row["completion_ids"][-1] in policy.eos_ids
        assert policy.decode(row["completion_ids"]) == row["text"]


def test_results_have_the_promised_shape(finished: Finished) -> None:
    _, once, report, _ = finished
    results = json.loads((once / "raft.json").read_text())
    assert set(results) == {"version", "config", "iterations"}
    assert [item["iteration"] for item in results["iterations"]] == [0, 1, 2]
    assert len({tuple(item) for item in results["iterations"]}) == 1
    for item in results["iterations"]:
        for name in ("greedy", "sampled"):
            assert set(item[name]) == {"accuracy", "ci_low", "ci_high", "num_problems"}
    first, last = results["iterations"][0], results["iterations"][2]
    assert first["num_kept"] is first["loss"] is first["learning_rate"] is first["gain_over_base"] is None
    assert last["learning_rate"] == 2e-3 and last["policy"] == "iter-2/policy"
    assert set(last["gain_over_base"]["greedy"]) == {"difference", "ci_low", "ci_high", "num_problems"}
    assert last["num_kept"] + last["num_dropped"] + last["num_skipped"] == last["num_prompts"] == 4
    assert report.iterations[2].to_row() == last
    assert "seconds" not in (once / "raft.json").read_text()


@pytest.mark.slow
def test_the_lab_policy_learns_from_its_own_right_solutions(tmp_path: Path) -> None:
    config = RaftConfig(
        num_iterations=1, num_samples=8, max_tokens=100, select="outcome", num_eval_samples=2,
        sft=SFTConfig(learning_rate=2e-4, num_epochs=8, batch_size=4, micro_batch_size=4),
    )  # fmt: skip
    problems, others = load_problems("lab:train?num=6"), load_problems("lab:test?num=4")
    report = raft(RaftInputs(problems, others, "lab"), tmp_path, config, QUIET)
    base, after = report.iterations
    assert base.policy == "lab"
    assert after.training is not None and after.training.loss < 0.7 * after.training.first_loss
    for gain, new, old in [
        (after.greedy_gain, after.greedy, base.greedy),
        (after.sampled_gain, after.sampled, base.sampled),
    ]:
        assert gain is not None
        assert gain.mean == pytest.approx(new.mean - old.mean)
        assert gain.low <= gain.mean <= gain.high
    with Run.read(tmp_path) as run:
        rows = [next(run.rows([f"{t}/evaluation"])) for t in (0, 1)]
    assert after.sampled.mean == pytest.approx(np.mean(rows[1]["sampled"]))
    assert all(set(row["greedy"]) <= {0.0, 1.0} for row in rows)


def tagged(path: Path, prm_format: PRMFormat) -> TaggedPRM:
    make_checkpoint(path)
    prm_format.save(path)
    return TaggedPRM.load(path)


@pytest.mark.parametrize(
    ("prm_format", "question", "message"),
    [
        (PRMFormat(tag="#"), "what is 1+1 #1?", r"'what is 1\+1 #1\?\\n' holds its special token '#'"),
        (PRMFormat(tag="w"), "1+1?", "'two.*' holds its special token 'w'|'one"),
        (PRMFormat(tag="#"), "¿1+1?", "its tokenizer makes '<unk>1\\+1\\?\\\\n' of '¿1\\+1\\?\\\\n'"),
        (PRMFormat(tag="#", max_length=20), "1+1?", "more than max_length 20"),
        (PRMFormat(tag="#", template="<user>{question}"), "1+1?", "holds its special token '<user>'"),
    ],
)
def test_a_prm_that_cannot_read_the_policy_is_refused_before_sampling(
    tmp_path: Path, prm_format: PRMFormat, question: str, message: str
) -> None:
    policy = ScriptedPolicy({"": {"two\n": 1.0}, "two\n": {"The answer is 3": 1.0}})
    prm = tagged(tmp_path / "prm", prm_format)
    problems = [Problem("first", question, "3")]
    inputs = RaftInputs(problems, EVAL_PROBLEMS, "s", prm, prm.format, lambda _: policy)
    with pytest.raises(LayoutError, match=message) as refusal:
        raft(inputs, tmp_path / "out", PICKING, QUIET)
    assert "problem first" in str(refusal.value)
    assert len(policy.requests) == 1 and not (tmp_path / "out").exists()


def test_a_prm_that_can_read_the_policy_passes_and_a_bare_scorer_is_not_asked(tmp_path: Path) -> None:
    policy = ScriptedPolicy(SCRIPT)
    prm = tagged(tmp_path / "prm", PRMFormat(tag="#"))
    check_prm(prm, prm.format, policy, PROBLEMS[0], 8)
    check_prm(LengthScorer(), PRMFormat(), policy, PROBLEMS[0], 8)
    assert len(policy.requests) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": RaftConfig(select="prm")}, "needs a PRM"),
        ({"config": RaftConfig(select="outcome"), "prm": LengthScorer()}, "asks no PRM"),
        ({"config": RaftConfig(select="outcome", num_prompts=13)}, "more than the 12 problems"),
        ({"eval_problems": []}, "12 and 0 were given"),
        (
            {"eval_problems": [*EVAL_PROBLEMS, replace(PROBLEMS[5], id="again")]},
            r"1 evaluation problems .* first is again",
        ),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = changes.get("config", replace(PICKING, select="outcome"))
    inputs = scripted(**{name: value for name, value in changes.items() if name != "config"})
    with pytest.raises(ValueError, match=message):
        raft(inputs, tmp_path / "out", config, QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_iterations": 0},
        {"num_prompts": -1},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"select": "luck"},
        {"aggregate": "max"},
    ],
)
def test_impossible_configurations_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least [01]|must be in|unknown|equal"):
        RaftConfig(**arguments)
