"""Each benchmark runs at a tiny size and writes a complete record; durations are not checked here."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from forkpoint.trees.grow import TreeConfig, grow_trees

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of benchmarks/ as a script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def keeps_torch_settings() -> Iterator[None]:
    """Restore the number of threads, which benchmarks set for their process."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)
    torch.set_flush_denormal(False)


@pytest.mark.slow
def test_interleaved_works_take_turns_at_being_first_and_the_first_round_does_not_count(
    benchmark_of: Any,
) -> None:
    called: list[str] = []
    works = {name: lambda name=name: called.append(name) for name in "abc"}
    rounds = benchmark_of("record").interleaved(works, num_rounds=3)
    assert called == list("abcbcacababc")
    assert [list(seconds) for seconds in rounds] == [list("abc")] * 3


def test_a_goal_is_met_by_the_median_from_its_own_side(benchmark_of: Any) -> None:
    ratio = benchmark_of("record").Ratio
    assert ratio([1.0, 5.0, 9.0], goal=5.0).is_met
    assert not ratio([1.0, 4.9, 9.0], goal=5.0).is_met
    assert ratio([1.0, 1.2, 9.0], goal=1.2, is_cost=True).is_met
    assert not ratio([1.0, 1.3, 9.0], goal=1.2, is_cost=True).is_met
    assert ratio([1.0]).is_met is None


@pytest.mark.slow
def test_labelling_compares_all_ways_and_the_loops_estimate_what_rollouts_do(
    benchmark_of: Any, keeps_torch_settings: None, tmp_path: Path
) -> None:
    labelling = benchmark_of("labelling")
    sizes = [
        "--num-problems=1",
        "--num-solutions=1",
        "--num-rollouts=4",
        "--num-leaves=2",
        "--num-rounds=1",
        "--max-tokens=60",
    ]
    record = _record(labelling, [*sizes, "--out", str(tmp_path)])
    [run] = record["runs"]
    assert set(run) == {"rollouts", "edu", "bisect", "loop", "batches"}
    assert run["rollouts"]["labels"] == run["loop"]["labels"] == run["batches"]["labels"]
    assert run["rollouts"]["distinct_labels"] == run["loop"]["distinct_labels"]
    assert (
        run["loop"]["computed_tokens"]
        > run["rollouts"]["computed_tokens"]
        > run["rollouts"]["sampled_tokens"]
        > 0
    )
    assert record["ratios"]["rollouts / loop, labels per second"]["goal"] == 5
    assert any("expected from sampling alone" in note for note in record["notes"])


def test_loop_and_batches_give_a_prefix_the_share_of_right_completions(benchmark_of: Any) -> None:
    """For a prefix that ends in the answer all completions are right.

    For one that ends in another, none is.
    """
    labelling, peer = benchmark_of("labelling"), benchmark_of("peers.er_prm_loop")
    policy = labelling.load_policy("lab", device="cpu")
    [problem] = labelling.load_problems("lab:train?num=1&seed=0")
    [outcome] = labelling.solve_by_sampling(
        policy, [problem], labelling.RolloutPlan(num_solutions=8).solutions(160, seed=0)
    )
    starts = []
    for idx, end in enumerate(outcome.ends):
        path = outcome.path(idx)
        ids = (
            policy.encode_question(problem.question) + path.completion.token_ids[:-1]
        )  # all except the end token
        starts.append((peer.Start(ids, path.text, problem.answer, problem.grader, 1), float(end.is_correct)))
    assert {share for _, share in starts} == {0.0, 1.0}
    model = labelling.AutoModelForCausalLM.from_pretrained(labelling.LAB_POLICY, dtype=torch.float32)
    loop = peer.Loop(model, labelling.load_tokenizer(labelling.LAB_POLICY), num_rollouts=2)
    torch.manual_seed(0)
    for found in (
        loop.label_one_by_one([s for s, _ in starts]),
        loop.label_in_batches([s for s, _ in starts], num_rows=6),
    ):
        assert found.shares == [share for _, share in starts]


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of a process is read where Linux tells it"
)
def test_growth_measures_every_size_and_relabels_to_the_same_bytes(benchmark_of: Any, tmp_path: Path) -> None:
    growth = benchmark_of("growth")
    record = _record(growth, ["--plans", "leaves", "--sizes", "2", "3", "4", "--out", str(tmp_path)])
    [run] = record["runs"]
    assert [item["num_problems"] for item in run["leaves"]] == [2, 3, 4]
    assert record["ratios"]["leaves: CPU seconds per problem, 4 / 3"]["goal_is"] == "at most"
    for measured in [*run["leaves"], *(asdict(growth.measure(plan, 2)) for plan in ("rollouts", "bisect"))]:
        assert measured["is_relabel_equal"]
        assert min(measured["num_labels"], measured["label_cpu_s"], measured["peak_mib"]) > 0


def test_the_adder_is_right_if_every_line_is(benchmark_of: Any) -> None:
    """A tree with room for all 2^6 choices has every solution, and one of them is right."""
    growth = benchmark_of("growth")
    tree, _ = grow_trees(
        growth.Adder(), [growth.Adder().encode_question("1+2+3+4+5+6")], TreeConfig(num_leaves=100, tau=0.5)
    )[0]
    texts = {growth.Adder().decode(tree.path(idx).token_ids) for idx in range(tree.num_leaves)}
    assert len(texts) == tree.num_leaves == 2**6
    assert [text for text in texts if text.endswith("The answer is 21")] == [
        "1\n3\n6\n10\n15\n21\nThe answer is 21"
    ]


def test_the_table_goes_between_its_markers_and_changes_nothing_else(
    benchmark_of: Any, tmp_path: Path
) -> None:
    table, record = benchmark_of("table"), benchmark_of("record")
    args = argparse.Namespace(out=tmp_path / "results")
    record.write(
        "speed", {"ours / theirs": record.Ratio([2.0, 4.0, 3.0], goal=2.5)}, [{"seconds": 1.0}], [], args
    )
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- benchmarks -->\nafter\n")
    for _ in range(2):
        table.main(["--results", str(args.out), "--readme", str(readme), "--write"])
    before, inner, after = readme.read_text().split("<!-- benchmarks -->\n")
    assert (before, after) == ("before\n", "after\n")
    assert "| speed | ours / theirs | 3.00 | 2.00 .. 4.00 | at least 2.5 | yes |" in inner
    assert "old" not in inner
    readme.write_text("no markers\n")
    with pytest.raises(ValueError, match="two lines"):
        table.main(["--results", str(args.out), "--readme", str(readme), "--write"])
    assert readme.read_text() == "no markers\n"


def _record(benchmark: ModuleType, argv: list[str]) -> dict[str, Any]:
    """Return the record of a benchmark after checking that it is complete and its ratios are consistent."""
    record: dict[str, Any] = json.loads(benchmark.main(argv).read_text())
    assert {"machine", "versions", "commit", "date", "command", "ratios", "runs", "notes"} <= record.keys()
    assert {"python", "torch", "forkpoint"} <= record["versions"].keys()
    assert {"cpu", "cores", "memory_gib", "gpu"} == record["machine"].keys()
    assert all(0 <= ratio["min"] <= ratio["median"] <= ratio["max"] for ratio in record["ratios"].values())
    return record
