"""Publishing: cards say only what runs record, and the upload is what a dry run writes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard, RepoCard

from forkpoint import formats
from forkpoint.cli import main
from forkpoint.cli.push import push
from forkpoint.errors import LayoutError
from forkpoint.formats.labels_file import read_labelled, write_labelled
from forkpoint.hub.card import labels_card
from forkpoint.hub.facts import label_facts, public_spec
from forkpoint.hub.publication import Publication
from forkpoint.hub.push import LABEL_FILE, stage_labels, stage_prm, upload
from forkpoint.prms import load_prm
from labelled import visible_errors

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "push.md"
SAID = Publication("apache-2.0")


def status_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `forkpoint label`, `train` and `evaluate`: labels/, prm/ and evaluation/."""
    root = tmp_path_factory.mktemp("runs")
    assert (
        status_of(
            "label", "lab:train?num=3", "--num-leaves", 3, "--max-tokens", 100, "--out", root / "labels"
        )
        == 0
    )
    options = ["--preset", "lab", "--num-epochs", 1, "--format.max-length", 512, "--held-out-share", 0]
    assert status_of("train", root / "labels", "--base", "lab", "--out", root / "prm", *options) == 0
    options = ["--prm", root / "prm", "--num-samples", 2, "--max-tokens", 120]
    assert status_of("evaluate", "lab:test?num=3", *options, "--out", root / "evaluation") == 0
    return root


def cells(content: str) -> dict[str, str]:
    """Return the two-column rows of a card."""
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]*?) \|$", content, re.MULTILINE))


def metadata_of(card: RepoCard) -> dict[str, Any]:
    """Return the metadata that the hub reads."""
    found: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    return found


def test_the_card_of_a_prm_says_what_the_runs_record(runs: Path, tmp_path: Path) -> None:
    stage_prm(
        runs / "prm",
        "me/my-prm",
        SAID,
        tmp_path / "hub",
        runs / "labels",
        runs / "evaluation" / "results.json",
    )
    content = (tmp_path / "hub" / "README.md").read_text()
    said, labelled = cells(content), list(read_labelled(runs / "labels"))
    manifest = json.loads((runs / "labels" / "manifest.json").read_text())["summary"]
    results = json.loads((runs / "evaluation" / "results.json").read_text())
    assert said["method"] == "EDU-PRM, arXiv 2503.22233"
    assert (said["plan (source of the outcomes)"], said["value (summary of the outcomes)"]) == (
        "leaves",
        "mean",
    )
    assert said["number of problems"] == "3" and said["step labels"] == str(
        sum(len(solution.labels) for solution in labelled)
    )
    assert said["labels: sampled tokens"] == f"{manifest['cost']['sampled_tokens']:,}"
    assert said["base model"].startswith("a directory with the fingerprint ")
    assert said["evaluated PRM"] == "this one, as its fingerprint shows" and "lab:test?num=3" in content
    (best,) = [
        row
        for row in results["rows"]
        if (row["select"], row["aggregate"], row["n"], row["sampler"]) == ("best", "min", 2, "ht")
    ]
    line = (
        f"| best of 2 samples at T = 0.7 | {best['accuracy']:.3f} | {best['ci_low']:.3f} to "
        f"{best['ci_high']:.3f} | 3 |"
    )
    assert line in content
    assert said["problems"] == "lab:test?num=3"  # of the evaluation; for the labels it is not recorded
    assert "| problems | not recorded |" in content


def test_the_metadata_of_a_card_come_back_as_they_were(runs: Path, tmp_path: Path) -> None:
    said = Publication("mit", base_model="me/base", datasets=("me/data",))
    stage_prm(
        runs / "prm",
        "me/my-prm",
        said,
        tmp_path / "hub",
        runs / "labels",
        runs / "evaluation" / "results.json",
    )
    data = ModelCard.load(tmp_path / "hub" / "README.md").data
    assert (data.license, data.base_model, data.datasets, data.model_name) == (
        "mit",
        "me/base",
        ["me/data"],
        "my-prm",
    )
    assert "process-reward-model" in data.tags
    results = json.loads((runs / "evaluation" / "results.json").read_text())
    best = [row for row in results["rows"] if (row["select"], row["aggregate"]) == ("best", "min")]
    expected = [round(row["accuracy"], 4) for row in best if row["n"] == max(row["n"] for row in best)]
    assert [item.metric_value for item in data.eval_results] == expected
    assert {(item.dataset_name, item.metric_type) for item in data.eval_results} == {
        ("lab:test?num=3", "accuracy")
    }
    assert metadata_of(ModelCard(f"---\n{data.to_yaml()}\n---\n")) == metadata_of(
        ModelCard.load(tmp_path / "hub" / "README.md")
    )


def test_what_nobody_recorded_is_called_not_recorded(runs: Path, tmp_path: Path) -> None:
    prm = tmp_path / "prm"
    shutil.copytree(runs / "prm", prm, ignore=shutil.ignore_patterns("training"))
    stage_prm(prm, "me/my-prm", SAID, tmp_path / "hub")
    content = (tmp_path / "hub" / "README.md").read_text()
    assert {
        cells(content)[name] for name in ("base model", "problems", "labels", "labels: sampled tokens")
    } == {"not recorded"}
    assert "The training is not recorded." in content and "The evaluation is not recorded." in content
    assert not (
        {"base_model", "model-index", "datasets", "language"} & metadata_of(ModelCard(content)).keys()
    )
    alone = shutil.copy(runs / "evaluation" / "results.json", tmp_path / "results.json")
    stage_prm(prm, "me/my-prm", SAID, tmp_path / "again", results=Path(alone))
    assert (
        cells((tmp_path / "again" / "README.md").read_text())["evaluated PRM"]
        == "this one, as the publisher states; not recorded"
    )


def test_a_staged_prm_is_the_prm(runs: Path, tmp_path: Path) -> None:
    stage_prm(runs / "prm", "me/my-prm", SAID, tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        path.name for path in (runs / "prm").iterdir() if path.name != "training"
    } | {"README.md"}
    question, steps = ["1 + 1?"], [["2\n", "3\n"]]
    assert load_prm(tmp_path / "hub", "cpu").score(question, steps) == load_prm(runs / "prm", "cpu").score(
        question, steps
    )


def test_labels_or_results_of_another_prm_are_refused(runs: Path, tmp_path: Path) -> None:
    write_labelled(tmp_path / "labels.jsonl", visible_errors(3))
    with pytest.raises(ValueError, match="was not trained on the labels at"):
        stage_prm(runs / "prm", "me/my-prm", SAID, tmp_path / "hub", tmp_path / "labels.jsonl")
    other = tmp_path / "prm"
    shutil.copytree(runs / "prm", other)
    (other / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"evaluates the PRM prm-[0-9a-f]{8}, not the one at"):
        stage_prm(other, "me/my-prm", SAID, tmp_path / "hub", results=runs / "evaluation" / "results.json")
    results = json.loads((runs / "evaluation" / "results.json").read_text())
    (tmp_path / "results.json").write_text(
        json.dumps(results | {"rows": [row for row in results["rows"] if row["select"] == "greedy"]})
    )
    with pytest.raises(ValueError, match="does not evaluate a PRM"):
        stage_prm(runs / "prm", "me/my-prm", SAID, tmp_path / "hub", results=tmp_path / "results.json")
    with pytest.raises(LayoutError, match="is not a PRM saved by forkpoint"):
        stage_prm(runs / "labels", "me/my-prm", SAID, tmp_path / "hub")
    config = runs / "prm" / "training" / "config.json"
    hub_base = tmp_path / "hub-base"
    shutil.copytree(runs / "prm", hub_base)
    recorded = json.loads(config.read_text())
    recorded["config"]["base"] = "you/base"
    (hub_base / "training" / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match="was trained from you/base, not from me/base"):
        stage_prm(hub_base, "me/my-prm", Publication("mit", base_model="me/base"), tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
    stage_prm(hub_base, "me/my-prm", SAID, tmp_path / "hub")
    assert ModelCard.load(tmp_path / "hub" / "README.md").data.base_model == "you/base"


def test_labels_become_parquet_that_reads_back_the_same_with_a_card(runs: Path, tmp_path: Path) -> None:
    stage_labels(runs / "labels", "me/my-labels", SAID, tmp_path / "hub")
    labelled = list(read_labelled(runs / "labels"))
    assert list(formats.read(tmp_path / "hub" / LABEL_FILE, "forkpoint")) == labelled
    card = DatasetCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.size_categories == "n<1K"
    assert metadata_of(card)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": LABEL_FILE}]}
    ]
    assert (
        cells(card.content)["solutions"]
        == f"{len(labelled)}, of which {sum(solution.is_correct for solution in labelled)} are right"
    )
    stage_labels(runs / "labels" / "labels.jsonl", "me/my-labels", SAID, tmp_path / "file")
    assert (tmp_path / "file" / "README.md").read_text() == card.content
    alone = tmp_path / "alone.jsonl"
    shutil.copy(runs / "labels" / "labels.jsonl", alone)
    stage_labels(alone, "me/my-labels", SAID, tmp_path / "alone")
    assert {cells((tmp_path / "alone" / "README.md").read_text())[name] for name in ("method", "policy")} == {
        "not recorded"
    }


def test_a_pushed_data_set_is_read_by_the_command_on_its_card(runs: Path, tmp_path: Path) -> None:
    stage_labels(runs / "labels", "me/my-labels", SAID, tmp_path / "hub")
    (command,) = re.findall(
        r"^    forkpoint (convert .*)$", (tmp_path / "hub" / "README.md").read_text(), re.MULTILINE
    )
    arguments = (
        command.replace('"', "")
        .replace("hub:me/my-labels", f"hub:{tmp_path / 'hub'}")
        .replace("labels.jsonl", f"{tmp_path / 'l.jsonl'}")
    )
    assert status_of(*arguments.split()) == 0
    assert list(read_labelled(tmp_path / "l.jsonl")) == list(read_labelled(runs / "labels"))


@pytest.mark.parametrize(
    ("num", "size"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (1_000_000, "1M<n<10M")],
)
def test_size_categories_are_those_of_the_hub(num: int, size: str, runs: Path) -> None:
    facts = replace(label_facts(runs / "labels"), num_solutions=num)
    assert metadata_of(labels_card("me/my-labels", SAID, facts, LABEL_FILE))["size_categories"] == size


SECRET = "hf_" + "a1B2" * 8


def test_no_local_path_and_no_token_is_on_a_card(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    prm = tmp_path / "prm"
    shutil.copytree(runs / "prm", prm)
    evaluation = tmp_path / "evaluation"
    shutil.copytree(runs / "evaluation", evaluation)
    results = json.loads((evaluation / "results.json").read_text())
    results["config"] |= {
        "problems": f"gsm8k:{tmp_path}/secret/test.jsonl?num=3",
        "policy": str(tmp_path),
        "prm": str(prm),
    }
    (evaluation / "results.json").write_text(json.dumps(results))
    stage_prm(prm, "me/my-prm", SAID, tmp_path / "hub", runs / "labels", evaluation / "results.json")
    stage_labels(runs / "labels", "me/my-labels", SAID, tmp_path / "labels")
    for folder in ("hub", "labels"):
        content = (tmp_path / folder / "README.md").read_text()
        for private in (
            SECRET,
            str(tmp_path),
            str(runs),
            str(Path.home()) + "/",
            "secret",
            os.uname().nodename,
        ):
            assert private not in content, private
    assert "gsm8k:test.jsonl?num=3" in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize(
    "text", [f"my problems, {SECRET}", "made at /home/me/problems.jsonl", "C:\\Users\\me"]
)
def test_a_path_or_a_token_that_somebody_says_is_refused(text: str, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a local path or a token") as error:
        stage_labels(runs / "labels", "me/my-labels", Publication("mit", problem_set=text), tmp_path / "hub")
    assert SECRET not in str(error.value) and not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("spec", "public"),
    [
        ("lab:test?num=3&seed=1", "lab:test?num=3&seed=1"),
        ("gsm8k:/home/me/gsm8k/test.jsonl?num=9", "gsm8k:test.jsonl?num=9"),
        ("../me/problems.parquet", "problems.parquet"),
        ("hub:openai/gsm8k?split=test", "hub:openai/gsm8k?split=test"),
        ("hub:/home/me/set?split=test", "hub:set?split=test"),
    ],
)
def test_a_problem_set_is_told_without_its_place(spec: str, public: str) -> None:
    assert public_spec(spec) == public


def test_a_licence_is_never_guessed_and_names_are_checked(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("push", runs / "prm", "me/my-prm", "--dry-run", "--out", tmp_path / "hub") != 0
    with pytest.raises(ValueError, match="must have its name on the hub"):
        Publication("Apache License, Version 2.0")
    with pytest.raises(ValueError, match="OWNER/NAME; 'my-prm' was given"):
        stage_prm(runs / "prm", "my-prm", SAID, tmp_path / "hub")
    with pytest.raises(ValueError, match="belong together"):
        push(runs / "prm", "me/my-prm", said=SAID, dry_run=True)
    with pytest.raises(ValueError, match="is not a PRM"):
        push(runs / "labels", "me/my-labels", said=SAID, labels=runs / "labels")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        stage_prm(runs / "prm", "me/my-prm", SAID, tmp_path / "full")


def test_without_a_token_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkpoint.hub.push.get_token", lambda: None)
    with pytest.raises(PermissionError, match="run `hf auth login`, or set HF_TOKEN"):
        upload(tmp_path, "me/my-prm", "model", private=True)


@contextmanager
def stub_hub(status: int = 200) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """The parts of the hub that an upload of small files needs.

    Gives its address and the (path, content) received.
    """
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            lines = [json.loads(line) for line in body.splitlines() if line]
            asked.append((path, lines if path.split("/")[-2:-1] == ["commit"] else lines[0]))
            answer: dict[str, Any] = {}
            if path.endswith("/create"):
                answer = {"url": f"http://127.0.0.1:{server.server_port}/datasets/me/my-labels"}
            elif "/preupload/" in path:
                answer = {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in lines[0]["files"]
                    ]
                }
            elif "/commit/" in path:
                address = f"http://127.0.0.1:{server.server_port}/datasets/me/my-labels/commit/{'0' * 40}"
                answer = {"commitOid": "0" * 40, "commitUrl": address, "success": True}
            self._answer(answer)

        def do_GET(self) -> None:
            asked.append((self.path, None))
            self._answer({"sha": "0" * 40, "id": "me/my-labels", "siblings": []})

        def _answer(self, answer: dict[str, Any]) -> None:
            data = json.dumps(answer if status == 200 else {"error": "not yours"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def push_to(endpoint: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `forkpoint push` in a process of its own, because the client reads its settings only once."""
    code = "import sys; import forkpoint.cli.push; from forkpoint.cli import main; main(sys.argv[1:])"
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": SECRET,
        "HF_HUB_OFFLINE": "0",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-c", code, "push", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_an_upload_sends_what_a_dry_run_writes(runs: Path, tmp_path: Path) -> None:
    stage_labels(runs / "labels", "me/my-labels", SAID, tmp_path / "hub")
    with stub_hub() as (endpoint, asked):
        done = push_to(endpoint, runs / "labels", "me/my-labels", "--license", "apache-2.0", "--private")
    assert done.returncode == 0, done.stderr
    assert "Uploaded: http" in done.stdout and SECRET not in done.stdout + done.stderr
    (created,) = [body for path, body in asked if path.endswith("/api/repos/create")]
    assert (created["name"], created["organization"], created["type"], created["visibility"]) == (
        "my-labels",
        "me",
        "dataset",
        "private",
    )
    (commit,) = [body for path, body in asked if "/commit/" in path]
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in commit
        if line["key"] == "file"
    }
    written = {
        str(path.relative_to(tmp_path / "hub")): path.read_bytes()
        for path in (tmp_path / "hub").rglob("*")
        if path.is_file()
    }
    assert sent == written and set(sent) == {"README.md", LABEL_FILE}


def test_a_hub_that_refuses_or_is_not_there_is_one_clear_sentence(runs: Path) -> None:
    arguments = [runs / "labels", "me/my-labels", "--license", "apache-2.0"]
    with stub_hub(403) as (endpoint, _):
        refused = push_to(endpoint, *arguments)
    assert refused.returncode == 2 and "does not let this token write to me/my-labels" in refused.stderr
    gone = push_to(endpoint, *arguments)
    assert gone.returncode == 2 and f"the hub at {endpoint} cannot be reached" in gone.stderr
    assert "Traceback" not in refused.stderr + gone.stderr and SECRET not in refused.stderr + gone.stderr


def test_the_commands_of_the_page_run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(runs)
    commands = re.findall(
        r"^    forkpoint (push .*?--dry-run.*)$", PAGE.read_text().replace("\\\n", ""), re.MULTILINE
    )
    assert len(commands) == 2
    for command in commands:
        assert status_of(*(part.strip("'") for part in re.findall(r"'[^']*'|\S+", command))) == 0, command


def test_the_command_is_light() -> None:
    code = (
        "import sys, forkpoint.cli.push; print([name for name in ('torch', 'transformers', "
        "'huggingface_hub') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
