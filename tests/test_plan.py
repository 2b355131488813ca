"""Plans of cost: tokens against counts by hand and real runs, hardware against arithmetic by hand, pilots
against larger runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from forkpoint.checkpoint import load_tokenizer
from forkpoint.cli.app import app
from forkpoint.cli.plan import parsed
from forkpoint.errors import RunError
from forkpoint.evaluation.run import EvaluateConfig, SolutionSources, evaluate_policy
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.formats.labels_file import read_labelled
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.omega_records import BisectConfig
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.planner.commands import Planner, Workload
from forkpoint.planner.estimate import estimate_recipe, estimate_stage
from forkpoint.planner.hardware import GPUS, HardwareConfig, ModelSize
from forkpoint.planner.pilot import read_pilot
from forkpoint.planner.recipe import Stage, read_recipe
from forkpoint.planner.volume import (
    ProblemSet,
    bisect_cost,
    evaluate_cost,
    fine_tuned_tokens,
    raft_cost,
    read_tokens,
    rollouts_cost,
    samples_cost,
    trained_tokens,
    tree_cost,
)
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.prms.layout import Layout
from forkpoint.problems import load_problems
from forkpoint.records import Cost
from forkpoint.runs import LocalExecutor, Run
from forkpoint.training.config import SFTConfig, TrainConfig
from forkpoint.training.presets import preset_named
from forkpoint.training.prm_trainer import layout_rows, pack_rows
from forkpoint.trees.grow import TreeConfig

TEN = ProblemSet(num_problems=10, prompt_tokens=5, solution_tokens=12, steps=4, fork_share=0.5)
TREE = TreeConfig(num_leaves=8, tau=0.3, max_tokens=160)
ROLLOUTS = RolloutPlan(num_solutions=2, num_rollouts=2)
EVALUATE = EvaluateConfig(num_samples=2, max_tokens=160)
SMALL = ModelSize(parameters=1e9, num_layers=1, num_kv_heads=1, head_dim=1)
IDEAL = HardwareConfig(
    gpu="H100", price_per_gpu_hour=3, compute_utilisation=1, bandwidth_utilisation=1, max_sequences=10
)


# Tokens, counted by hand.


def test_samples_take_a_prompt_once_and_a_solution_each() -> None:
    assert samples_cost(TEN, 3) == Cost(requests=30, prompt_tokens=150, reused_tokens=100, sampled_tokens=360)


def test_a_fork_keeps_half_a_solution_forces_a_token_and_samples_the_rest() -> None:
    # one tree of 3 leaves: root 5 -> 12; two forks: 5 + 6 + the forced one -> 5
    assert tree_cost(TEN, 3) == Cost(10 * 3, 10 * (5 + 2 * 12), 10 * 2 * 11, 10 * (12 + 2 * 5))
    assert tree_cost(TEN, 1) == samples_cost(TEN, 1)


def test_rollouts_complete_every_inner_prefix_of_every_solution() -> None:
    # a solution of 4 steps of 3 tokens: prefixes of 5 + 3, 5 + 6, 5 + 9 tokens, rests of 9, 6, 3
    rollouts = rollouts_cost(TEN, RolloutPlan(num_solutions=2, num_rollouts=7), num_leaves=0)
    asked = 10 * 2 * 7 * (8 + 11 + 14)
    own = Cost(10 * 2 * 3 * 7, asked, asked - 10 * (5 + 2 * 9), 10 * 2 * 7 * (9 + 6 + 3))
    assert rollouts == samples_cost(TEN, 2) + own


def test_rollouts_of_a_tree_complete_a_shared_prefix_once() -> None:
    plan = RolloutPlan(source="tree", num_rollouts=7)
    assert rollouts_cost(TEN, plan, num_leaves=3).requests == 10 * (3 + 7 * 2 * 3), (
        "3 leaves are 1 + 2 / 2 solutions' worth"
    )


def test_a_solution_of_one_step_has_no_prefixes_to_complete() -> None:
    one = replace(TEN, steps=1)
    assert rollouts_cost(one, ROLLOUTS, 0) == samples_cost(one, ROLLOUTS.num_solutions)
    assert bisect_cost(one, BisectConfig(num_rollouts=8)) == samples_cost(one, 8)


def test_a_search_takes_log_two_of_the_steps_times_k_rollouts_of_half_a_solution() -> None:
    cost = bisect_cost(TEN, BisectConfig(num_rollouts=8, max_searches=5))
    assert (cost.requests, cost.sampled_tokens) == (10 * 8 * (1 + 5 * 2), 10 * 8 * (12 + 5 * 2 * 6))


def test_evaluation_is_greedy_and_samples_at_every_temperature_and_a_tree() -> None:
    config = EvaluateConfig(num_samples=4, temperatures=(0.7, 1.0))
    assert evaluate_cost(TEN, config) == samples_cost(TEN, 1) + samples_cost(TEN, 4) + samples_cost(
        TEN, 4
    ) + tree_cost(TEN, 4)


def test_raft_samples_every_iteration_and_measures_the_base_as_well() -> None:
    config = RaftConfig(num_iterations=2, num_samples=3, num_eval_samples=4, sft=SFTConfig(num_epochs=2))
    assert (
        raft_cost(TEN, replace(TEN, num_problems=7), config).sampled_tokens
        == 2 * 10 * 3 * 12 + 3 * 7 * 5 * 12
    )
    assert fine_tuned_tokens(TEN, config) == 2 * 10 * 2 * (5 + 12)


def test_a_prm_reads_a_shared_prefix_once_where_it_reads_trees() -> None:
    assert read_tokens(TEN, 3, True, is_packed=False) == 10 * 3 * (5 + 12 + 4)
    assert read_tokens(TEN, 3, False) == 10 * (5 + 3 * 16)
    assert read_tokens(TEN, 3, True) == 10 * (5 + 2 * 16)
    # 37 tokens in rows of 21, of which 5 + 8 are there again in each: 13 + 8, 13 + 8, 13 + 8
    assert read_tokens(TEN, 3, True, max_pack_tokens=21) == 10 * (37 + 2 * 13)


def test_epochs_and_the_limit_of_solutions_count_in_training() -> None:
    config = TrainConfig(num_epochs=2.5, packing="flat", max_solutions_per_problem=2)
    assert trained_tokens(TEN, 3, True, config) == 2.5 * 10 * 2 * 21


# Hardware, calculated by hand.


def test_decoding_is_bound_by_memory_until_the_batch_is_large() -> None:
    cached = ModelSize(parameters=1e9, num_layers=100, num_kv_heads=100, head_dim=10)
    assert cached.cache_bytes_per_token == 2 * 100 * 100 * 10 * 2
    rate = IDEAL.decoding_rate(cached, 1, context_tokens=100, new_tokens=50)
    assert rate == pytest.approx(10 / ((2e9 + 10 * 125 * 4e5) / 3.35e12)), (
        "weights once, and the keys and values of 125 tokens on average"
    )
    assert replace(IDEAL, bandwidth_utilisation=0.5).decoding_rate(cached, 1, 100, 50) == pytest.approx(
        rate / 2
    )
    assert IDEAL.decoding_rate(cached, 4, 100, 50) == pytest.approx(rate * 4)
    assert replace(IDEAL, max_sequences=10_000).decoding_rate(SMALL, 1, 100, 50) == pytest.approx(
        989.5e12 / 2e9
    )


def test_as_many_sequences_are_decoded_as_the_memory_holds() -> None:
    large = replace(SMALL, parameters=35e9)  # 70 of the 72 GB that may be taken
    config = replace(IDEAL, max_sequences=10_000)
    assert config.batch(large, 1, tokens_per_sequence=1_000_000) == 500
    assert config.batch(large, 1, tokens_per_sequence=1_000_000_000) == 1
    assert [config.replica_size(replace(SMALL, parameters=size)) for size in (35e9, 36e9, 72.7e9)] == [
        1,
        2,
        4,
    ]


def test_sampling_is_decoding_and_what_is_not_reused_of_the_prompts() -> None:
    cost = Cost(requests=10, prompt_tokens=1000, reused_tokens=400, sampled_tokens=500)
    expected = 500 / IDEAL.decoding_rate(SMALL, 1, 100, 50) + 2e9 * 600 / 989.5e12
    assert IDEAL.sampling_s(cost, SMALL, 1, 1) == pytest.approx(expected)
    assert IDEAL.sampling_s(cost, SMALL, 8, 2) == pytest.approx(IDEAL.sampling_s(cost, SMALL, 2, 2) / 4)
    assert replace(IDEAL, tokens_per_second=100).sampling_s(cost, SMALL, 5, 1) == 1


def test_training_takes_six_flops_per_weight_and_token_and_sixteen_bytes_per_weight() -> None:
    models = {"prm": replace(SMALL, parameters=8e9)}
    work = Workload(trained_tokens=1_000_000, training=TrainConfig())
    launched = Stage("train", ("forkpoint", "train"), launcher=("torchrun",), num_gpus=2)
    found = estimate_stage(launched, work, models, IDEAL, 4)
    assert found.flops == 6 * 8e9 * 1e6
    assert found.hours == pytest.approx(found.flops / (2 * 989.5e12) / 3600)
    assert found.gpu_hours == pytest.approx(2 * found.hours) and found.cost == pytest.approx(
        3 * found.gpu_hours
    )
    assert not found.misfits
    alone = estimate_stage(replace(launched, launcher=()), work, models, IDEAL, 4)
    assert alone.misfits == ("training at 16 bytes per weight: 128 GB, and 1 x H100 have room for 72 GB",)
    lora = estimate_stage(
        launched, replace(work, training=TrainConfig(lora_rank=8, dtype="bfloat16")), models, IDEAL, 4
    )
    assert lora.flops == 4 * 8e9 * 1e6


def test_a_prm_that_one_gpu_does_not_hold_and_a_policy_that_is_split_too_little_are_said() -> None:
    models = {"policy": replace(SMALL, parameters=70e9), "prm": replace(SMALL, parameters=30e9)}
    work = Workload(sampled=samples_cost(TEN, 1), read_tokens=10, replica_size=2, sampling_gpus=8)
    found = estimate_stage(Stage("evaluate", (), num_gpus=8), work, models, IDEAL, 4)
    assert [misfit.split(":")[0] for misfit in found.misfits] == ["the PRM's weights"]
    assert (
        estimate_stage(Stage("a", (), num_gpus=8), replace(work, replica_size=1), models, IDEAL, 2)
        .misfits[0]
        .startswith("the policy's")
    )
    with pytest.raises(ValueError, match="samples on 8 GPUs, and the stage holds 4"):
        estimate_stage(Stage("a", (), num_gpus=4), work, models, IDEAL, 2)
    with pytest.raises(ValueError, match=r"nothing about models\.prm; there are policy"):
        estimate_stage(Stage("evaluate", (), num_gpus=8), work, {"policy": SMALL}, IDEAL, 4)


def test_where_a_server_samples_the_prm_has_a_gpu_of_its_own() -> None:
    work = Workload(sampled=samples_cost(TEN, 1), read_tokens=10)
    models = {"policy": SMALL, "prm": SMALL}
    eight, seven = (
        estimate_stage(Stage("a", (), num_gpus=8), its, models, IDEAL, 4).sampling_hours
        for its in (replace(work, read_tokens=0), work)
    )
    assert seven == pytest.approx(eight * 8 / 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": "H1000"},
        {"compute_utilisation": 0},
        {"bandwidth_utilisation": 1.5},
        {"max_sequences": 0},
        {"tokens_per_second": 0},
    ],
)
def test_impossible_hardware_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes)) if 'gpu' not in changes else 'GPU'}.*"):
        HardwareConfig(**changes)


def test_a_faster_gpu_is_no_slower_at_anything() -> None:
    order = [GPUS[name] for name in ("A100", "H100", "H200", "B200")]
    for slow, fast in pairwise(order):
        assert slow.flops <= fast.flops and slow.bandwidth < fast.bandwidth and slow.memory <= fast.memory


# Pilots: real runs of the lab policy.


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind on 8 problems, and on 16 of which those are the first."""
    directory = tmp_path_factory.mktemp("runs")
    policy, problems, executor = (
        load_policy("lab"),
        load_problems("lab:train?num=16&seed=3"),
        LocalExecutor(chunk_size=64),
    )
    for num in (8, 16):
        label_problems(problems[:num], policy, directory / f"leaves-{num}", TREE, LabelConfig(), executor)
        label_problems(
            problems[:num],
            policy,
            directory / f"rollouts-{num}",
            TREE,
            LabelConfig(),
            executor,
            Sampling(ROLLOUTS),
        )
        evaluate_policy(
            problems[:num],
            policy,
            directory / f"evaluate-{num}" / "evaluate",
            SolutionSources(EVALUATE, replace(TREE, num_leaves=2)),
            executor,
        )
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["leaves", "rollouts", "evaluate"])
def test_a_pilot_foretells_what_twice_as_many_problems_take(runs: Path, kind: str) -> None:
    pilot, real = read_pilot(runs / f"{kind}-8"), read_pilot(runs / f"{kind}-16")
    expected = pilot.scaled_cost(16)
    assert pilot.sampled_tokens is not None
    assert pilot.sampled_tokens.mean * 8 == pytest.approx(pilot.cost.sampled_tokens), (
        "every token belongs to a problem"
    )
    assert pilot.sampled_tokens.low * 16 < real.cost.sampled_tokens < pilot.sampled_tokens.high * 16
    assert expected.sampled_tokens == pytest.approx(real.cost.sampled_tokens, rel=0.2)
    assert expected.prompt_tokens == pytest.approx(real.cost.prompt_tokens, rel=0.2)


@pytest.mark.slow
def test_a_pilot_s_cost_is_that_of_its_manifest(runs: Path) -> None:
    for kind in ("leaves", "rollouts"):
        pilot = read_pilot(runs / f"{kind}-8")
        with Run.read(runs / f"{kind}-8") as run:
            assert run.manifest is not None
            assert pilot.cost == Cost(**run.manifest["summary"]["cost"])
            assert pilot.solutions_per_problem * 8 == run.manifest["summary"]["num_solutions"]


@pytest.mark.slow
def test_from_measured_means_the_formula_of_trees_gives_the_measured_tokens(runs: Path) -> None:
    pilot = read_pilot(runs / "leaves-16")
    assert pilot.means is not None and pilot.solutions_per_problem == 8
    expected = tree_cost(pilot.means, 8)
    assert expected.sampled_tokens == pytest.approx(pilot.cost.sampled_tokens, abs=1)
    assert expected.prompt_tokens == pytest.approx(pilot.cost.prompt_tokens, abs=1)
    assert expected.reused_tokens == pytest.approx(pilot.cost.reused_tokens, rel=0.01), (
        "a real cache misses some"
    )


@pytest.mark.slow
def test_from_measured_means_rollouts_are_given_at_most(runs: Path) -> None:
    pilot = read_pilot(runs / "rollouts-16")
    assert pilot.means is not None
    expected = rollouts_cost(pilot.means, ROLLOUTS, 0)
    assert pilot.cost.sampled_tokens < expected.sampled_tokens < 1.6 * pilot.cost.sampled_tokens, (
        "solutions of one problem share prefixes"
    )


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["tree", "flat"])
def test_the_tokens_of_training_are_those_that_the_trainer_packs(runs: Path, packing: Any) -> None:
    pilot = read_pilot(runs / "leaves-16")
    config = TrainConfig(packing=packing)
    layout = Layout(load_tokenizer(LAB_POLICY), config.format)
    chosen, encoded, refusals = layout_rows(list(read_labelled(runs / "leaves-16")), layout)
    rows = pack_rows(chosen, encoded, config.max_pack_tokens if packing == "tree" else 0)
    assert not refusals and pilot.means is not None
    assert trained_tokens(pilot.means, 8, True, config) == pytest.approx(
        sum(len(row["input_ids"]) for row in rows), rel=0.1
    )


@pytest.mark.slow
def test_what_is_no_pilot_is_refused(runs: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs / "leaves-8", unfinished)
    (unfinished / "manifest.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        read_pilot(unfinished)
    with Run.open(tmp_path / "other", "raft", {}) as run:
        run.finish({})
    with pytest.raises(RunError, match="made by raft"):
        read_pilot(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pilot(tmp_path / "nowhere")


# Whole experiments.

RECIPE = """
title = "lab"
gpu = "L40S"
[variables]
leaves = "8"
[models]
policy = { parameters = 1e6, num_layers = 2, num_kv_heads = 2, head_dim = 32 }
prm = { parameters = 1e6, num_layers = 2, num_kv_heads = 2, head_dim = 32 }
[problems]
train = { num_problems = 500, prompt_tokens = 1, solution_tokens = 1000, steps = 3 }
[[stages]]
name = "label"
command = "forkpoint label lab:train --num-leaves {leaves} --tau 0.3 --max-tokens 160 --out {out}/labels"
problems = ["train"]
[[stages]]
name = "relabel"
command = "forkpoint relabel {out}/labels --values er:2 --values hit --out {out}/other"
[[stages]]
name = "train"
command = "forkpoint train {out}/other/er-2.jsonl --preset lab --out {out}/prm"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.slow
def test_a_pilot_s_means_reach_the_stages_that_read_its_labels(runs: Path, recipe: Path) -> None:
    found = read_recipe(recipe, Path("OUT"))
    pilot = read_pilot(runs / "leaves-8")
    assert pilot.means is not None
    assumed = estimate_recipe(found, HardwareConfig(), parsed)
    label, train = estimate_recipe(found, HardwareConfig(), parsed, {"label": pilot})
    assert label.is_measured and label.sampled == pilot.scaled_cost(500)
    assert train.trained_tokens == trained_tokens(
        replace(pilot.means, num_problems=500), 8, True, preset_named("lab")
    )
    assert train.trained_tokens != assumed[1].trained_tokens and not assumed[0].is_measured


@pytest.mark.slow
def test_a_pilot_of_another_stage_s_settings_is_refused(runs: Path, recipe: Path) -> None:
    pilot = read_pilot(runs / "leaves-8")
    with pytest.raises(
        ValueError,
        match=r"stage label: the pilot .* had tree .*num_leaves.: 8.* the stage has .*num_leaves.: 9",
    ):
        estimate_recipe(
            read_recipe(recipe, Path("OUT"), ["leaves=9"]), HardwareConfig(), parsed, {"label": pilot}
        )
    with pytest.raises(ValueError, match=r"stage label: .* had plan rollouts, and the stage has leaves"):
        estimate_recipe(
            read_recipe(recipe, Path("OUT")),
            HardwareConfig(),
            parsed,
            {"label": read_pilot(runs / "rollouts-8")},
        )
    with pytest.raises(ValueError, match="stage train: a pilot is for a stage of label or evaluate"):
        estimate_recipe(read_recipe(recipe, Path("OUT")), HardwareConfig(), parsed, {"train": pilot})
    with pytest.raises(ValueError, match=r"no stage 'lable'.*choose from label, relabel, train"):
        estimate_recipe(read_recipe(recipe, Path("OUT")), HardwareConfig(), parsed, {"lable": pilot})


@pytest.mark.slow
def test_pilots_of_rollouts_and_of_an_evaluation_fit_the_commands_that_made_them(runs: Path) -> None:
    rollouts = (
        "label lab:train --plan rollouts --num-solutions 2 --tau 0.3 --max-tokens 160 --out o "
        "--num-rollouts {}"
    )
    label = parsed(rollouts.format(2).split())
    evaluate = parsed(
        [
            "evaluate",
            "lab:test",
            "--num-samples",
            "2",
            "--max-tokens",
            "160",
            "--tree.tau",
            "0.3",
            "--out",
            "o",
        ]
    )
    for (command, arguments), kind in ((label, "rollouts"), (evaluate, "evaluate")):
        pilot = read_pilot(runs / f"{kind}-8")
        assert Planner().workload(
            command, arguments, [replace(TEN, num_problems=30)], pilot
        ).sampled == pilot.scaled_cost(30)
    with pytest.raises(ValueError, match="has 2 rollouts per prefix, and the stage has 4"):
        Planner().workload(*parsed(rollouts.format(4).split()), [TEN], read_pilot(runs / "rollouts-8"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train nowhere --out o", "no stage before makes the labels nowhere"),
        ("sweep x --values mean --problems lab:test --out o", "there is no plan of sweep"),
        ("label lab:train --out o", "planned with 1 problem sets; 0 were given"),
        ("label lab:train --nope 3 --out o", "--nope"),
        ("evaluate lab:test --labels x --out o", "1 problem sets"),
    ],
)
def test_a_command_that_cannot_be_planned_is_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Planner().workload(*parsed(line.split()), [])


def test_gpus_are_those_that_the_command_line_gives_the_policy() -> None:
    def work(line: str) -> Workload:
        return Planner().workload(*parsed(f"label lab:train --out o {line}".split()), [TEN])

    assert (work("").sampling_gpus, work("").replica_size) == (1, 1)
    spread = work("--engine vllm --ray auto --workers 4 --gpus-per-worker 2 --tensor-parallel 2")
    assert (spread.sampling_gpus, spread.replica_size) == (8, 2)
    served = work("--engine openai --server http://localhost:8000")
    assert (served.sampling_gpus, served.replica_size) == (None, None)


# The command.


def plan(*arguments: object) -> None:
    assert app(["plan", *map(str, arguments)], result_action="return_value") == 0


@pytest.mark.slow
def test_the_json_of_a_plan_adds_up_and_says_what_it_follows_from(
    recipe: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(recipe, "--pilot", f"label={runs / 'leaves-8'}", "--price-per-gpu-hour", 7, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in found["stages"]] == ["label", "train"]
    for key in ("flops", "hours", "gpu_hours", "cost"):
        assert found["total"][key] == pytest.approx(sum(stage[key] for stage in found["stages"]))
    assert found["total"]["cost"] == pytest.approx(7 * found["total"]["gpu_hours"])
    assert found["assumed"]["hardware"]["gpu"] == "L40S" and found["facts"]["gpu"]["memory"] == 48e9
    assert found["measured"]["label"]["num_problems"] == 8


def test_the_table_says_that_it_is_not_measured_and_what_does_not_fit(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(RECIPE.replace("prm = { parameters = 1e6", "prm = { parameters = 1e10"))
    plan(recipe, "--gpu", "A100")
    shown = capsys.readouterr().out
    assert (
        "train does not fit: training at 16 bytes per weight: 160 GB, and 1 x A100 have room for 72 GB"
        in shown
    )
    assert "Not measured; assumed: gpu A100, price_per_gpu_hour 2.5" in shown


@pytest.mark.slow
def test_a_pilot_alone_is_scaled_up_with_its_interval(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan("--pilot", runs / "leaves-8", "--num-problems", 16, "--json")
    found = json.loads(capsys.readouterr().out)
    with Run.read(runs / "leaves-16") as run:
        assert run.manifest is not None
        real = run.manifest["summary"]["cost"]["sampled_tokens"]
    assert found["expected"]["sampled_tokens_low"] < real < found["expected"]["sampled_tokens_high"]
    assert found["expected"]["journal_bytes"] == pytest.approx(
        (runs / "leaves-16" / "journal.jsonl").stat().st_size, rel=0.2
    )
    plan("--pilot", runs / "leaves-8", "--num-problems", 16)
    assert "8 problems, measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a recipe, or one --pilot DIRECTORY and --num-problems"),
        (["--pilot", "x"], "give a recipe, or one --pilot DIRECTORY and --num-problems"),
        (["RECIPE", "--num-problems", "3"], "leave --num-problems out"),
        (["RECIPE", "--pilot", "x"], "a pilot is STAGE=DIRECTORY"),
        (["RECIPE", "--set", "leafs=3"], "leafs=3"),
        (["no/such.toml"], "no recipe at no/such.toml"),
    ],
)
def test_a_plan_that_cannot_be_made_ends_with_a_reason(
    recipe: Path, arguments: list[str], message: str
) -> None:
    given = [str(recipe) if argument == "RECIPE" else argument for argument in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        app(["plan", *given], result_action="return_value")
