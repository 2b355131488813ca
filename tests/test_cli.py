"""The command line, run as a user runs it: real files in, files and one-sentence errors out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import make_checkpoint
from fork_server import forkpoint
from forkpoint.cli import main
from forkpoint.formats.labels_file import write_labelled
from labelled import visible_errors

DATA = Path(os.environ.get("FORKPOINT_DATA", Path(__file__).parents[2] / "shared" / "data"))
COMMANDS = [
    "demo",
    "label",
    "train",
    "score",
    "evaluate",
    "report",
    "grade",
    "relabel",
    "sweep",
    "plan",
    "raft",
    "convert",
    "serve",
    "export",
    "benchmark",
    "doctor",
    "search",
    "push",
]


def succeeded(*arguments: object) -> str:
    done = forkpoint(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_defaults(command: str) -> None:
    text = succeeded(command, "--help")
    assert command in text
    if command in ("demo", "label", "train", "evaluate"):
        assert "[default: " in text


def test_help_is_light() -> None:
    code = (
        "import sys, forkpoint.cli; heavy = ('torch', 'transformers', 'datasets', 'pyarrow'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_interrupted_command_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("forkpoint.cli.grade.grade_file", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["grade", str(tmp_path / "answers.jsonl")])
    assert ended.value.code == 130
    assert "interrupted; a command that writes to a run continues when it is given again" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_idle_threads_sleep_unless_the_user_says_otherwise(given: dict[str, str], seen: str) -> None:
    code = (
        "import os, sys; from forkpoint.cli import main\n"
        "assert 'torch' not in sys.modules, 'OpenMP reads the variable when torch is loaded'\n"
        "try: main(['--version'])\n"
        "except SystemExit: print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {name: value for name, value in os.environ.items() if "OMP_" not in name} | given
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == seen


def test_importing_the_package_loads_no_heavy_library_and_the_check_can_fail() -> None:
    def heavy_after(statement: str) -> str:
        code = (
            f"import sys; {statement}; print(sorted({{'torch', 'transformers', 'numpy'}} & set(sys.modules)))"
        )
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert (
        heavy_after(
            "import forkpoint; forkpoint.log_mean_exp(2.0); forkpoint.ScriptedPolicy; forkpoint.grow_trees"
        )
        == "[]"
    )
    assert "numpy" in heavy_after("import numpy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "lab:tset", "--out", "OUT"], "lab:tset"),
        (["label", "lab:test?nmu=3", "--out", "OUT"], "nmu"),
        (["label", "lab:test", "--policy", "no/such/model", "--out", "OUT"], "no/such/model"),
        (["label", "gsm8k:missing.jsonl", "--out", "OUT"], "missing.jsonl"),
        (["label", "lab:test", "--out", "OUT", "--tau", "-1"], "tau"),
        (["train", "missing", "--out", "OUT"], "missing"),
        (["report", "missing"], "missing"),
        (["label", "lab:test", "--out", "OUT", "--method", "sheperd"], "choose from edu, er, shepherd-hard"),
        (["relabel", "missing"], "missing"),
        (["train", "missing", "--out", "OUT", "--preset", "er"], "choose from er-prm"),
        (
            ["convert", "missing.jsonl", "--from", "tlr", "--out", "OUT", "--to", "trl"],
            "choose from forkpoint, math-shepherd",
        ),
        (["score", "missing", "file.jsonl", "--out", "OUT"], "missing"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_status_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = forkpoint(*(str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments))
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_label_runs_on_published_gsm8k_with_any_model_directory(tmp_path: Path) -> None:
    file = DATA / "gsm8k" / "test.jsonl"
    if not file.exists():
        pytest.skip(
            f"the GSM8K file is not at {file}; set FORKPOINT_DATA to a directory that holds gsm8k/test.jsonl"
        )
    model = make_checkpoint(tmp_path / "model", "llama", max_position_embeddings=1024)
    options = ["--num-leaves", 4, "--max-tokens", 24, "--tau", 1.0, "--batch-size", 4]
    text = succeeded("label", f"gsm8k:{file}?num=6", "--policy", model, "--out", tmp_path / "run", *options)
    assert "num_solutions" in text
    rows = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[0]["problem"]["answer"] == "18"
    assert sum(len(row["branches"]) for row in rows) > 12
    assert len((tmp_path / "run" / "labels.jsonl").read_text().splitlines()) == sum(
        len(row["branches"]) for row in rows
    )


@pytest.mark.slow
def test_train_and_score_a_file(tmp_path: Path) -> None:
    write_labelled(tmp_path / "labels.jsonl", visible_errors(20))
    base = make_checkpoint(tmp_path / "base", initializer_range=0.1)
    options = [
        "--format.tag",
        "#",
        "--learning-rate",
        0.01,
        "--num-epochs",
        8,
        "--batch-size",
        16,
        "--micro-batch-size",
        16,
        "--held-out-share",
        0,
    ]
    assert "trained on 80 solutions" in succeeded(
        "train", tmp_path / "labels.jsonl", "--base", base, "--out", tmp_path / "prm", *options
    )
    given = [{"question": "q1", "solution": "abcy\nabcz\n", "id": 7}, {"question": "q2", "steps": ["abcy\n"]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    succeeded("score", tmp_path / "prm", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    first, second = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first["id"] == 7 and first["steps"] == ["abcy\n", "abcz\n"]
    assert first["step_scores"][0] > first["step_scores"][1] == first["score"]
    assert len(second["step_scores"]) == 1
    (tmp_path / "in.jsonl").write_text(
        json.dumps(given[0]) + "\n" + json.dumps({"question": "q", "steps": []}) + "\n"
    )
    done = forkpoint("score", tmp_path / "prm", tmp_path / "in.jsonl", "--out", tmp_path / "other.jsonl")
    assert done.returncode == 2 and "line 2" in done.stderr
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.slow
def test_one_run_of_rollouts_gives_every_label_in_every_format(tmp_path: Path) -> None:
    run, plan = tmp_path / "run", ["--num-solutions", 2, "--num-rollouts", 4, "--max-tokens", 120]
    assert "num_rollouts " in succeeded(
        "label", "lab:train?num=3", "--method", "er", "--eta", 5, *plan, "--out", run
    )
    er = [json.loads(line) for line in (run / "labels.jsonl").read_text().splitlines()]
    assert "of value hit" in succeeded(
        "relabel", run, "--value", "shepherd-hard", "--out", tmp_path / "hard.jsonl"
    )
    hard = [json.loads(line) for line in (tmp_path / "hard.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in er] == [row["steps"] for row in hard] and len(er) == 6
    for one, other in zip(er, hard, strict=True):
        for label, hard_label in zip(one["labels"], other["labels"], strict=True):
            assert hard_label["value"] == float(label["num_correct"] > 0) >= label["value"]
    exact = ["--write", "separator="]
    assert "6 solutions written" in succeeded(
        "convert", run, "--from", "forkpoint", "--out", tmp_path / "trl.parquet", "--to", "trl",
        "--write", "threshold=0.5", *exact
    )  # fmt: skip
    done = forkpoint("convert", run, "--from", "forkpoint", "--out", tmp_path / "trl.jsonl", "--to", "trl")
    assert done.returncode == 2 and "threshold" in done.stderr and not (tmp_path / "trl.jsonl").exists()
    again = succeeded(
        "convert",
        tmp_path / "trl.parquet",
        "--from",
        "trl",
        "--out",
        tmp_path / "back.jsonl",
        "--to",
        "forkpoint",
        "--read",
        "separator=",
    )
    assert "6 solutions written, 0 rows left out" in again


@pytest.mark.slow
def test_a_sweep_and_a_raft_run_end_with_a_table(tmp_path: Path) -> None:
    plan = ["--plan", "rollouts", "--num-solutions", 2, "--num-rollouts", 2, "--max-tokens", 120]
    succeeded("label", "lab:train?num=3", *plan, "--out", tmp_path / "run")
    values = ["--values", "mean", "--values", "er:10", "--preset", "lab", "--train.num-epochs", 1]
    problems = ["--problems", "lab:test?num=2", "--num-samples", 4, "--max-tokens", 120]
    text = succeeded("sweep", tmp_path / "run", *values, *problems, "--out", tmp_path / "sweep")
    assert "er-10" in text and "minus majority" in text
    assert (tmp_path / "sweep" / "er-10-seed0" / "prm" / "forkpoint_prm.json").exists()
    options = [
        "--num-iterations",
        1,
        "--num-samples",
        8,
        "--max-tokens",
        120,
        "--select",
        "outcome",
        "--num-eval-samples",
        1,
    ]
    tuning = [
        "--sft.learning-rate",
        1e-4,
        "--sft.batch-size",
        2,
        "--sft.micro-batch-size",
        2,
        "--sft.num-epochs",
        1,
    ]
    text = succeeded(
        "raft",
        "lab:train?num=8",
        "--eval-problems",
        "lab:test?num=2",
        *options,
        *tuning,
        "--out",
        tmp_path / "raft",
    )
    assert "sampled minus base" in text
    assert len(json.loads((tmp_path / "raft" / "raft.json").read_text())["iterations"]) == 2


def test_grade_counts_a_file_and_writes_verdicts(tmp_path: Path) -> None:
    rows = [("0", "0"), ("1234567", "1,234,567"), ("14/3", "\\frac{14}{3}"), ("7", "8"), ("3", "9**9**9**9")]
    file = tmp_path / "answers.jsonl"
    file.write_text(
        "".join(json.dumps({"reference": left, "prediction": right}) + "\n" for left, right in rows)
    )
    done = forkpoint("grade", file, "--out", tmp_path / "verdicts.jsonl")
    assert done.returncode == 0, done.stderr
    assert "5 texts: 0 had no answer, 1 could not be graded, 0 were cut off" in done.stderr
    assert "warning: 20.0% of the texts were not read" in done.stderr
    outcomes = [
        json.loads(line)["outcome"] for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()
    ]
    assert outcomes == ["correct", "correct", "correct", "wrong", "ungradable"]


def test_lab_shows_problems_with_their_solutions() -> None:
    text = succeeded("lab", "show", "lab:hard?num=2")
    assert text.count("The answer is") == 2
    assert "[lab:test/hard/0/1]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "openai"], "belong together"),
        (["--server", "http://localhost:1"], "belong together"),
        (["--engine", "openai", "--server", "http://localhost:1"], "http://localhost:1"),
        (["--engine", "vllm"], "docs/how-to/engines.md"),
        (["--gpus-per-worker", "1"], "--ray"),
        (
            ["--engine", "vllm", "--ray", "auto", "--tensor-parallel", "2", "--gpus-per-worker", "1"],
            "--gpus-per-worker 2",
        ),
        (["--ray", "auto", "--gpus-per-worker", "64"], "has room for 0"),
    ],
)
def test_engines_and_workers_that_cannot_be_had_are_told_in_one_sentence(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = forkpoint("label", "lab:test?num=1", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr, done.stderr
