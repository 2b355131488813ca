"""The recipe of the evidence, at a scale small enough to run it whole.

The numbers of docs/explanations/evidence.md therefore come from tested code.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forkpoint.lab.oracle import first_wrong_step
from forkpoint.lab.problem_set import lab_story
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import tree_outcomes
from forkpoint.labels.run import derive_labels
from forkpoint.policies import load_policy
from forkpoint.problems import load_problems
from forkpoint.runs import Run
from forkpoint.solutions.solve import solve_by_tree
from forkpoint.steps import AnchorRule
from forkpoint.trees.grow import TreeConfig

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def evidence() -> Iterator[Any]:
    """Import the recipe as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        yield importlib.import_module("evidence")


@pytest.fixture(scope="module")
def out(evidence: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of some arms at the tiny scale with two seeds."""
    directory = tmp_path_factory.mktemp("evidence")
    arms = ("tuning", "segmentation", "cheating", "labels", "own", "aggregates", "ours")
    evidence.run(evidence.EvidenceConfig(arm=arms, seeds=(0, 1), scale="tiny", out=directory))
    return directory


def results(out: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "results").glob("*.json")}


def test_every_accuracy_lies_in_its_interval_and_every_difference_is_that_of_the_accuracies(
    out: Path,
) -> None:
    found = results(out)["default-segmentation"]
    means = {}
    for row in found["rows"]:
        assert 0 <= row["ci_low"] <= row["mean"] <= row["ci_high"] <= 1
        assert (
            row["num_seeds"] == (2 if row["variant"] else 1)
            and row["num_problems"] == found["scale"]["num_test"]
        )
        means[
            " ".join(
                str(row[name]) for name in ("variant", "solutions", "select", "aggregate", "n") if row[name]
            )
        ] = row["mean"]
    assert len(found["contrasts"]) > 10
    for item in found["contrasts"]:
        assert item["mean"] == pytest.approx(means[item["left"]] - means[item["right"]])
        assert item["ci_low"] <= item["mean"] <= item["ci_high"]


def test_what_is_there_is_not_made_again_and_gives_the_same_results(evidence: Any, out: Path) -> None:
    before = results(out)
    made = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".npz", ".safetensors")
    }
    journals = {path: path.read_bytes() for path in out.rglob("journal.jsonl")}
    assert made and journals
    evidence.run(evidence.EvidenceConfig(arm=("segmentation", "labels"), seeds=(0, 1), scale="tiny", out=out))
    assert results(out) == before
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert {path: path.read_bytes() for path in journals} == journals


def test_seeds_train_on_other_problems_and_all_variants_of_a_seed_on_the_same(out: Path) -> None:
    def problems(unit: str) -> set[str]:
        return {
            json.loads(line)["problem_id"]
            for line in (out / "default" / "units" / unit / "labels.jsonl").open()
        }

    assert problems("edu-seed0") == problems("edu-random-seed0") == problems("soft-seed0")
    assert problems("edu-seed0") != problems("edu-seed1")


def test_cuts_lose_nothing_and_solutions_that_share_a_prefix_share_its_steps(evidence: Any) -> None:
    cuts = importlib.import_module("evidence_lab.cuts")
    (outcome,) = solve_by_tree(
        load_policy("lab"),
        load_problems("lab:train?num=1"),
        TreeConfig(num_leaves=8, tau=0.5, max_tokens=160),
    )
    paths = [outcome.path(idx) for idx in range(len(outcome.ends))]
    for how in cuts.CUTS:
        for path in paths:
            steps, ends = cuts.steps_of(path, how, AnchorRule(tau=0.5), 0.1)
            assert (
                "".join(steps) == path.text and ends[-1] == len(path.completion) and len(steps) == len(ends)
            )
    starts = [cuts.random_starts(path.completion.token_ids, 0.1) for path in paths]
    for (left, left_starts), (right, right_starts) in itertools.combinations(
        zip(paths, starts, strict=True), 2
    ):
        pairs = zip(left.completion.token_ids, right.completion.token_ids, strict=False)
        shared = next((idx for idx, (one, other) in enumerate(pairs) if one != other), 0)
        assert [start for start in left_starts if start <= shared] == [
            start for start in right_starts if start <= shared
        ]


def test_random_cuts_come_at_the_rate_that_is_asked_for(evidence: Any) -> None:
    cuts = importlib.import_module("evidence_lab.cuts")
    rng = np.random.default_rng(0)
    num = sum(len(cuts.random_starts(rng.integers(0, 400, 100).tolist(), 0.15)) for _ in range(300))
    assert num / 30_000 == pytest.approx(0.15, abs=0.01)


def test_first_wrong_steps_are_the_oracles(evidence: Any, out: Path) -> None:
    lab, settings = (importlib.import_module(f"evidence_lab.{name}") for name in ("lab", "settings"))
    stock = lab.Lab(settings.Setting("default", "lab"), settings.TINY, out, [0], print).stock
    num_wrong = 0
    for item in stock.solutions("test-ht-0.7"):
        for attempt in item.attempts:
            assert attempt.first_wrong_step("newline") == first_wrong_step(
                lab_story(item.problem_id), attempt.steps["newline"]
            )
            num_wrong += attempt.error_offset is not None
    assert num_wrong


def test_auc_is_the_share_of_pairs_in_order(evidence: Any) -> None:
    auc = importlib.import_module("evidence_lab.cheating").auc
    rng = np.random.default_rng(1)
    high, low = rng.integers(0, 6, 40).tolist(), rng.integers(0, 6, 30).tolist()
    pairs = [1.0 if one > other else 0.5 if one == other else 0.0 for one in high for other in low]
    assert auc(high, low) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc([], low))


def test_more_rollouts_make_better_labels_at_proportional_cost(out: Path) -> None:
    rows = {row["label"]: row for row in results(out)["default-labels"]["labels"]}
    one, four = rows["rollouts, k = 1"], rows["rollouts, k = 4"]
    assert four["tokens_per_label"] == pytest.approx(4 * one["tokens_per_label"])
    assert {
        "leaves, uniform",
        "leaves, policy-weighted",
        "rollouts, stopped early",
        "bisection, k = 8",
    } <= rows.keys()


def test_more_completions_are_those_that_there_were_and_as_many_more(
    evidence: Any, out: Path, tmp_path: Path
) -> None:
    lab, settings = (importlib.import_module(f"evidence_lab.{name}") for name in ("lab", "settings"))
    shutil.copytree(
        out / "default" / "stock" / "labels-rollouts", tmp_path / "default" / "stock" / "labels-rollouts"
    )
    shutil.copytree(out / "default" / "tuning", tmp_path / "default" / "tuning")
    tiny = lab.Lab(settings.Setting("default", "lab"), settings.TINY, tmp_path, [0], print)

    before = (tiny.stock.labels("rollouts") / "journal.jsonl").read_bytes()
    after = (tiny.stock.labels("more-rollouts") / "journal.jsonl").read_bytes()
    assert (
        after.startswith(before) and (tiny.stock.labels("rollouts") / "journal.jsonl").read_bytes() == before
    )
    few, many = tiny.stock.label_cost("rollouts"), tiny.stock.label_cost("more-rollouts")
    assert (few.num_rollouts, many.num_rollouts) == (4, 8) and few.solutions == many.solutions
    assert few.rollouts < many.rollouts < 3 * few.rollouts

    of_few, of_many = (list(tiny.unit(variant, 0)._labelled()) for variant in ("soft", "soft-k32"))
    assert {label.num_total for item in of_few for label in item.labels[:-1]} == {4}
    assert {label.num_total for item in of_many for label in item.labels[:-1]} == {8}
    with Run.read(tiny.stock.labels("more-rollouts")) as run:
        chosen = {item.problem_id for item in of_few}
        assert [
            item for item in derive_labels(run, LabelConfig(), num_rollouts=4) if item.problem_id in chosen
        ] == of_few


def test_own_outcomes_label_a_step_by_all_samples_that_begin_with_it(evidence: Any, out: Path) -> None:
    units = importlib.import_module("evidence_lab.units")
    with Run.read(out / "default" / "stock" / "labels-rollouts") as run:
        chosen = {row["problem"]["id"] for row in itertools.islice(run.rows(), 3)}
        found = list(units.own_outcomes(run, chosen, LabelConfig()))
    by_problem = {name: [item for item in found if item.problem_id == name] for name in chosen}
    assert all(len(group) == 2 for group in by_problem.values())
    for group in by_problem.values():
        for item in group:
            for idx, label in enumerate(item.labels[:-1]):
                same = [
                    other.is_correct for other in group if other.steps[: idx + 1] == item.steps[: idx + 1]
                ]
                assert (label.num_correct, label.num_total) == (sum(same), len(same)) and label.value == sum(
                    same
                ) / len(same)
            assert item.labels[-1].value == item.is_correct


def test_a_pool_grows_until_its_vote_is_clear(evidence: Any) -> None:
    ours = importlib.import_module("evidence_lab.ours")
    leaves = [ours.Candidate("7", False, 10, (0.5,)), ours.Candidate("8", True, 4, (0.4,))]
    samples = [ours.Candidate(answer, answer == "8", 5, (0.3,)) for answer in ("8", "8", "7", "8", "8", "8")]

    def outcome(**way: Any) -> tuple[float, float]:
        found: tuple[float, float] = ours._outcome((leaves, samples), ours.Way(6, **way), 6)
        return found

    assert outcome(enough=0.5) == (0.0, 14)  # .5 of .9
    assert outcome(enough=0.6) == (1.0, 24)  # 1.0 of 1.5
    assert outcome() == outcome(enough=0.9) == (1.0, 44)
    assert outcome(select="best") == (0.0, 44)


def test_leaves_count_by_what_the_policy_gives_them_and_sharpened_scores(evidence: Any, out: Path) -> None:
    ours = importlib.import_module("evidence_lab.ours")
    leaves = [ours.Candidate("7", False, 10, (0.5,), 0.5), ours.Candidate("8", True, 4, (0.4,), 1.5)]
    way = ours.Way(0, num_leaves=2)
    assert ours._ballot(leaves, way)[1] == pytest.approx([0.5 * 0.5**3, 1.5 * 0.4**3])
    assert ours._outcome((leaves, []), way, 6) == (1.0, 14)
    lab, settings = (importlib.import_module(f"evidence_lab.{name}") for name in ("lab", "settings"))
    tiny = lab.Lab(settings.Setting("default", "lab"), settings.TINY, out, [0], print)
    with Run.read(out / "default" / "stock" / "test-tree-1") as run:
        trees = {outcome.problem.id: outcome.tree for outcome in tree_outcomes(run)}
    shares = tiny.stock.leaf_shares("test-tree-1", 4)
    assert max(map(len, shares)) > 1 and [sum(its) for its in shares] == pytest.approx([1.0] * len(shares))
    for item, its in zip(tiny.stock.solutions("test-tree-1"), shares, strict=True):
        assert len(its) == min(4, trees[item.problem_id].num_leaves)


def test_ways_that_grow_cost_no_less_than_a_tree_and_no_more_than_all_samples(out: Path) -> None:
    found = results(out)["default-ours"]
    tokens = {row["name"]: row["tokens"] for row in found["ways"]}
    grown = [
        tokens[f"vote of tree, then samples until {share} of the vote; edu"] for share in (0.3, 0.5, 0.7, 0.9)
    ]
    assert [tokens["vote of tree; edu"], *grown, tokens["vote of tree and 4 samples; edu"]] == sorted(
        [tokens["vote of tree; edu"], *grown, tokens["vote of tree and 4 samples; edu"]]
    )
    assert all(item["token_ratio"] >= 1 / 1.02 for item in found["differences"])


def test_what_a_part_adds_is_the_difference_of_two_rows_from_the_same_tree(out: Path) -> None:
    found = results(out)["default-ours"]
    means = {row["name"]: row["mean"] for row in found["ways"]}
    known = [item for item in found["parts"] if item["right"] in means]
    assert all(item["mean"] == pytest.approx(means[item["left"]] - means[item["right"]]) for item in known)
    rights = {(item["left"], item["right"]) for item in found["parts"]}
    of_tree = "policy-weighted vote of tree of 4, tau = 1.0"
    for prm in ("edu", "er-2"):
        assert {
            (f"{of_tree}; {prm}", f"{how} of tree of 4, tau = 1.0; {prm}") for how in ("best", "vote")
        } <= rights
        assert (f"{of_tree}, then samples until 0.5 of the vote; {prm}", f"{of_tree}; {prm}") in rights
    assert (f"{of_tree}; er-2", f"{of_tree}; edu") in rights


def test_other_settings_answer_with_what_the_first_tuned(evidence: Any, tmp_path: Path, out: Path) -> None:
    shutil.copytree(out / "default" / "tuning", tmp_path / "default" / "tuning")
    arms = ("elsewhere", "ours", "cheating")
    evidence.run(
        evidence.EvidenceConfig(arm=arms, setting=("shuffle",), seeds=(0, 1), scale="tiny", out=tmp_path)
    )
    found = results(tmp_path)
    assert found.keys() == {f"shuffle-{arm}" for arm in arms}
    assert found["shuffle-elsewhere"]["setting"]["family"] == "lab-shuffle"
    assert {item["right"] for item in found["shuffle-ours"]["differences"]} <= {
        row["name"] for row in found["shuffle-ours"]["ways"]
    }
    tables = importlib.import_module("evidence_lab.tables").tables(found)
    assert "first error" not in tables["shuffle-cheating"] and "tree, then samples" in tables["shuffle-ours"]
    assert (
        tables["front"].count("| shuffle |")
        == len([row for row in tables["front"].splitlines() if row.startswith("| shuffle")])
        > 1
    )
    assert [path.name for path in (tmp_path / "default").iterdir()] == ["tuning"]


def test_a_problem_that_two_seeds_steered_counts_once(evidence: Any) -> None:
    steering = importlib.import_module("evidence_lab.steering")
    assert steering._per_problem(["a", "b", "a"], np.array([1.0, 1.0, 0.0])).tolist() == [0.5, 1.0]


def test_tables_and_plots_hold_every_number_once_it_is_measured(
    evidence: Any, out: Path, tmp_path: Path
) -> None:
    tables, plots = (importlib.import_module(f"evidence_lab.{name}") for name in ("tables", "plots"))
    found = results(out)
    text = tables.tables(found)
    row = next(
        row
        for row in found["default-segmentation"]["rows"]
        if row["variant"] == "edu-random" and row["select"] == "best"
    )
    assert f"{row['mean']:.3f} ({row['ci_low']:.3f} .. {row['ci_high']:.3f})" in text["default-segmentation"]
    assert found["default-segmentation"]["commit"] in text["default-segmentation"]
    assert "6 test problems, 2 seeds (0 to 1)" in text["default-segmentation"]
    assert (
        "4 valid problems, one seed" in text["default-tuning"]
        and "test problems" not in text["default-tuning"] + text["default-labels"]
    )
    assert len(re.findall(r"^\| rollouts, k", text["default-labels"], re.MULTILINE)) == 3
    (drawn,) = plots.draw(found, tmp_path)
    assert drawn.name == "label_error_tokens.svg" and "<svg" in drawn.read_text()


def test_the_tables_of_the_documents_are_those_of_the_results(evidence: Any) -> None:
    tables = importlib.import_module("evidence_lab.tables")
    found = tables.tables(
        {path.stem: json.loads(path.read_text()) for path in (RECIPES / "results").glob("*.json")}
    )
    marks = []
    for document in sorted((RECIPES.parent / "docs" / "explanations" / "evidence").glob("*.md")):
        for name, body in re.findall(
            r"<!-- evidence (\S+) -->\n\n(.*?)\n\n<!-- evidence \1 -->", document.read_text(), re.DOTALL
        ):
            assert body == found[name], f"{document.name}: run `python recipes/evidence_tables.py --write`"
            marks.append(name)
    assert len(marks) == len(set(marks)) > 20
