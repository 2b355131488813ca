"""Problems that are held out of training: the choice, the figures, the journal, and what is said of them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fork_server import forkpoint
from forkpoint.errors import ConfigDiffers, ForkpointError, MissingPackageError
from forkpoint.estimates import auc
from forkpoint.formats.labels_file import read_labelled, write_labelled
from forkpoint.prms import load_prm
from forkpoint.records import Label
from forkpoint.training.config import TrainConfig, TrainReport
from forkpoint.training.held_out import HeldOut, ScoredSteps, held_out_questions, measured, num_held_out
from forkpoint.training.prm import NONE_HELD_OUT, train_prm, train_report
from labelled import visible_errors
from test_train import CONFIG, Killed, trained, weights

pytestmark = pytest.mark.slow

HELD = replace(CONFIG, held_out_share=0.2)
QUESTIONS = [f"q{idx}" for idx in range(40)]


def rows_of(prm: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (prm / "training" / "journal.jsonl").open()]


def scored(problems: list[int], labels: list[float], scores: list[float]) -> ScoredSteps:
    losses = [
        -(label * math.log(score) + (1 - label) * math.log(1 - score))
        for label, score in zip(labels, scores, strict=True)
    ]
    return ScoredSteps(np.array(problems), np.array(labels), np.array(scores), np.array(losses))


def test_the_choice_depends_on_the_seed_and_the_questions_not_on_their_order() -> None:
    apart = held_out_questions(QUESTIONS, 0.2, seed=0)
    assert len(apart) == 8
    assert held_out_questions([*reversed(QUESTIONS), *QUESTIONS], 0.2, seed=0) == apart
    assert held_out_questions(QUESTIONS, 0.2, seed=1) != apart
    assert apart < held_out_questions(QUESTIONS, 0.4, seed=0)


@pytest.mark.parametrize(
    ("num_problems", "share", "expected"),
    [(40, 0.0, 0), (0, 0.5, 0), (1, 0.5, 0), (2, 0.05, 1), (2, 0.99, 1), (40, 0.05, 2), (1000, 0.05, 50)],
)
def test_at_least_one_problem_is_held_out_and_one_is_left(
    num_problems: int, share: float, expected: int
) -> None:
    assert num_held_out(num_problems, share) == expected
    assert len(held_out_questions(QUESTIONS[:num_problems], share, 0)) == min(expected, num_problems) or (
        num_problems > len(QUESTIONS)
    )


def test_figures_by_hand() -> None:
    found = measured(scored([0, 0, 1], [1.0, 0.0, 0.5], [0.8, 0.25, 0.82]), constant=0.6)
    losses = [-math.log(0.8), -math.log(0.75), -0.5 * (math.log(0.82) + math.log(0.18))]
    constant_losses = [-math.log(0.6), -math.log(0.4), -0.5 * (math.log(0.6) + math.log(0.4))]
    assert (found.num_problems, found.num_steps, found.constant) == (2, 3, 0.6)
    assert found.loss == pytest.approx(sum(losses) / 3)
    assert found.constant_loss == pytest.approx(sum(constant_losses) / 3)
    assert found.gain == pytest.approx(found.constant_loss - found.loss)
    assert found.auc == 1.0
    assert [(item.low, item.num_steps) for item in found.bins] == [(0.2, 1), (0.8, 2)]
    assert found.bins[1].mean_score == pytest.approx(0.81) and found.bins[1].mean_label == 0.75
    assert found.ece == pytest.approx((0.25 + 2 * 0.06) / 3)
    assert found.mean_score == pytest.approx(1.87 / 3) and found.mean_label == 0.5
    assert found.beats_constant
    assert HeldOut.of_row(json.loads(json.dumps(asdict(found)))) == found


def test_scores_of_the_constant_gain_nothing_and_do_not_beat_it() -> None:
    found = measured(scored([0, 1, 1], [1.0, 1.0, 0.75], [0.7, 0.7, 0.7]), constant=0.7)
    assert (found.gain, found.gain_low, found.gain_high) == (0.0, 0.0, 0.0)
    assert not found.beats_constant and found.auc is None


def test_a_constant_is_perfect_only_if_all_labels_are_0_or_all_are_1() -> None:
    assert measured(scored([0, 1], [0.0, 0.0], [0.1, 0.1]), constant=0.0).constant_is_perfect
    assert measured(scored([0, 1], [1.0, 1.0], [0.9, 0.9]), constant=1.0).constant_is_perfect
    # labels that are trained on differ, so a score nearer to 0 than the constant would have been better
    assert not measured(scored([0, 1], [0.0, 0.0], [0.1, 0.1]), constant=0.01).constant_is_perfect
    assert not measured(scored([0, 1], [0.0, 1.0], [0.5, 0.5]), constant=0.5).constant_is_perfect


def test_the_interval_of_the_gain_is_that_of_a_ratio_over_problems() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, 60)
    problems = np.repeat(np.arange(60), counts)
    labels = rng.random(len(problems))
    losses = rng.gamma(2.0, 0.2, len(problems)) + 0.02 * counts[problems]
    found = measured(ScoredSteps(problems, labels, labels, losses), constant=0.5)
    gains = math.log(2) - losses
    sums = np.bincount(problems, weights=gains)
    draws = rng.integers(0, 60, (4000, 60))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), (0.025, 0.975))
    assert found.gain == pytest.approx(gains.mean())
    assert (found.gain_low, found.gain_high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_auc_is_the_share_of_pairs_in_order_with_ties_as_halves() -> None:
    rng = random.Random(0)
    scores = np.array([rng.randint(0, 5) / 5 for _ in range(30)])
    upper = np.array([rng.random() < 0.4 for _ in range(30)])
    pairs = [(high > low) + (high == low) / 2 for high in scores[upper] for low in scores[~upper]]
    assert auc(scores, upper) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(scores, np.ones(30, dtype=bool)) is None


def test_scores_that_are_not_numbers_end_the_training_with_a_sentence() -> None:
    steps = ScoredSteps(np.array([0]), np.array([1.0]), np.array([math.nan]), np.array([math.nan]))
    with pytest.raises(ForkpointError, match="the training has diverged"):
        measured(steps, 0.5)


@pytest.mark.parametrize("packing", ["flat", "tree"])
def test_what_is_held_out_is_not_learned_and_the_report_says_how_it_is_scored(
    packing: Any, tmp_path: Path
) -> None:
    config = replace(
        HELD, packing=packing, learning_rate=1e-2, num_epochs=6, batch_size=4, micro_batch_size=4
    )
    path, report = trained(tmp_path, config)
    solutions = list(read_labelled(tmp_path / "labels.jsonl"))
    apart = held_out_questions([item.question for item in solutions], 0.2, config.seed)
    held = [item for item in solutions if item.question in apart]
    assert len(apart) == 8 and report.num_rows == 160 - len(held) == 128
    rest = [item for item in solutions if item.question not in apart]
    write_labelled(tmp_path / "rest.jsonl", rest)
    without = train_prm(
        tmp_path / "rest.jsonl",
        str(tmp_path / "base"),
        tmp_path / "without",
        replace(config, held_out_share=0.0),
    )
    assert without.held_out is None
    for name, weight in weights(path).items():
        assert weight.equal(weights(tmp_path / "without")[name]), name
    found = report.held_out
    assert found is not None and (found.num_problems, found.num_steps) == (
        8,
        sum(len(item.steps) for item in held),
    )
    scores = load_prm(path).score([item.question for item in held], [item.steps for item in held])
    flat = [score for steps in scores for score in steps]
    labels = [label.value for item in held for label in item.labels]
    learned = [label.value for item in rest for label in item.labels]
    expected = measured(
        scored([int(item.question[1:]) for item in held for _ in item.steps], labels, flat),
        sum(learned) / len(learned),
    )
    for name, value in asdict(expected).items():
        if name not in ("bins", "gain_low", "gain_high"):
            assert asdict(found)[name] == pytest.approx(value, abs=2e-4), name
    assert found.beats_constant and found.auc is not None and found.auc > 0.9


@pytest.mark.parametrize(("every", "expected"), [(0, [3, 6, 9, 12, 15, 18, 21, 24]), (10, [10, 20, 24])])
def test_the_journal_has_every_step_and_every_check(every: int, expected: list[int], tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    path, report = trained(
        tmp_path,
        replace(HELD, evaluate_every=every),
        on_step=lambda num_done, num_steps, loss: seen.append((num_done, loss)),
    )
    rows = rows_of(path)
    steps = [row for row in rows if "loss" in row]
    assert [(row["step"], row["loss"]) for row in steps] == seen and len(seen) == report.num_steps == 24
    assert max(row["learning_rate"] for row in steps) == 3e-3 > steps[-1]["learning_rate"] > 0
    checks = [row for row in rows if "held_out" in row]
    assert [row["step"] for row in checks] == expected and len(rows) == 24 + len(checks)
    assert HeldOut.of_row(checks[-1]["held_out"]) == report.held_out == train_report(path).held_out
    assert len({row["held_out"]["loss"] for row in checks}) == len(checks)


def test_without_held_out_problems_the_journal_has_the_steps_alone(tmp_path: Path) -> None:
    path, report = trained(tmp_path, replace(CONFIG, num_epochs=1))
    assert report.held_out is None
    assert [row["key"] for row in rows_of(path)] == [f"step/{step}" for step in range(1, 11)]


def test_a_killed_training_continues_to_the_same_journal(tmp_path: Path) -> None:
    once, report = trained(tmp_path, HELD, "once")

    def kill_at(step: int) -> Any:
        def on_step(num_done: int, num_steps: int, loss: float) -> None:
            if num_done == step:
                raise Killed

        return on_step

    for step in (3, 8, 9, 15, 24):  # checkpoints at 5, 10, ...; checks at 3, 6, ...: rows are done again
        with pytest.raises(Killed):
            trained(tmp_path, HELD, "often", kill_at(step))
        assert rows_of(tmp_path / "often")[-1]["step"] == step
    often, continued = trained(tmp_path, HELD, "often")
    journals = [(path / "training" / "journal.jsonl").read_bytes() for path in (once, often)]
    assert journals[0] == journals[1] and continued == report


def test_rows_that_a_power_cut_took_come_back_with_the_checkpoint(tmp_path: Path) -> None:
    once, _ = trained(tmp_path, HELD, "once")

    def on_step(num_done: int, num_steps: int, loss: float) -> None:
        if num_done == 12:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path, HELD, "cut", on_step)
    journal = tmp_path / "cut" / "training" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    trained(tmp_path, HELD, "cut")
    assert journal.read_bytes() == (once / "training" / "journal.jsonl").read_bytes() != b""


def test_one_problem_is_not_held_out(tmp_path: Path) -> None:
    write_labelled(tmp_path / "one.jsonl", visible_errors(1, seed=3))
    trained(tmp_path, replace(CONFIG, num_epochs=1), "other")
    done = forkpoint("train", "one.jsonl", "--base", "base", "--out", "prm", *FLAGS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no problem was held out" in done.stdout


def test_a_training_without_these_settings_is_left_as_it_is(tmp_path: Path) -> None:
    path, report = trained(tmp_path)
    config_file = path / "training" / "config.json"
    settings = json.loads(config_file.read_text())
    for name in NONE_HELD_OUT:
        del settings["config"][name]
    config_file.write_text(json.dumps(settings))
    default = replace(CONFIG, held_out_share=TrainConfig().held_out_share)
    stamp = (path / "model.safetensors").stat().st_mtime_ns
    assert trained(tmp_path, default)[1] == trained(tmp_path, CONFIG)[1] == report
    assert (path / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigDiffers, match=r"held_out_share: nothing there, 0\.3 here"):
        trained(tmp_path, replace(CONFIG, held_out_share=0.3))


def test_a_report_without_held_out_figures_is_read(tmp_path: Path) -> None:
    _, report = trained(tmp_path, replace(CONFIG, num_epochs=1))
    old = {name: value for name, value in asdict(report).items() if name != "held_out"}
    assert TrainReport.of_summary(old) == report


FLAGS = ["--format.tag", "#", "--format.max-length", "128", "--batch-size", "16", "--micro-batch-size", "16"]


def test_train_says_how_it_went_and_fails_if_a_constant_is_as_good(tmp_path: Path) -> None:
    trained(tmp_path, replace(CONFIG, num_epochs=1), "other")
    arguments = ["train", "labels.jsonl", "--base", "base", *FLAGS, "--held-out-share", "0.2"]
    good = forkpoint(
        *arguments, "--out", "good", "--learning-rate", "0.01", "--num-epochs", "12", cwd=tmp_path
    )
    assert good.returncode == 0 and "WARNING" not in good.stderr, good.stderr
    for part in (
        "trained on 128 solutions",
        "8 problems were held out, with ",
        "for the constant 0.",
        "AUC 1.000 for telling",
        "calibration error 0.0",
        "torch uses 1 thread",
    ):
        assert part in good.stdout, part
    bad = forkpoint(*arguments, "--out", "bad", "--learning-rate", "1e-9", cwd=tmp_path)
    assert bad.returncode == 1
    assert "WARNING: the PRM at bad is no better than a constant" in bad.stderr
    assert "gain over the constant -0." in bad.stdout
    assert load_prm(tmp_path / "bad").score(["q1"], [["abcy\n"]])
    again = forkpoint(*arguments, "--out", "bad", "--learning-rate", "1e-9", cwd=tmp_path)
    assert again.returncode == 1 and "WARNING" in again.stderr


def test_train_on_constant_labels_that_were_allowed_does_not_fail(tmp_path: Path) -> None:
    trained(tmp_path, replace(CONFIG, num_epochs=1), "other")
    label = Label(value=0.0, num_correct=0, num_total=1, effective_size=1.0, low=0.0, high=1.0)
    alike = [
        replace(item, labels=(label,) * len(item.labels), is_correct=False)
        for item in read_labelled(tmp_path / "labels.jsonl")
    ]
    write_labelled(tmp_path / "labels.jsonl", alike)
    arguments = ["train", "labels.jsonl", "--base", "base", *FLAGS, "--out", "constant"]
    done = forkpoint(*arguments, "--allow-constant-labels", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: all labels are 0, so nothing says whether the PRM at constant" in done.stderr
    assert "no better than a constant" not in done.stderr


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    name: Any, tmp_path: Path
) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingPackageError, match=f"pip install {name}$"):
        train_prm(tmp_path / "labels.jsonl", "base", tmp_path / "prm", CONFIG, report_to=[name])
    assert not (tmp_path / "prm").exists()


def test_a_training_continues_with_another_tracker(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    def on_step(num_done: int, num_steps: int, loss: float) -> None:
        if num_done == 8:
            raise Killed

    trained(tmp_path, HELD, "once")
    with pytest.raises(Killed):
        trained(tmp_path, HELD, "prm", on_step)
    labels, base = tmp_path / "labels.jsonl", str(tmp_path / "base")
    train_prm(labels, base, tmp_path / "prm", HELD, report_to=["tensorboard"])
    assert list((tmp_path / "prm" / "training" / "tensorboard").glob("events.*"))
    for name, weight in weights(tmp_path / "once").items():
        assert weight.equal(weights(tmp_path / "prm")[name]), name
