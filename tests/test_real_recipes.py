"""The experiments at real scale: every file can be planned, and its stages run on tiny checkpoints.

The checkpoints have the same architectures. Random weights, three problems and a few tokens say nothing about
accuracy; they show that the command lines are right and that each stage can read what the one before it
wrote. Servers, launchers and vLLM are left out; the servers of the runner have a test of their own.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from checkpoints import CHATML, LLAMA_SPECIAL, make_byte_tokenizer, make_model, make_sentencepiece_tokenizer
from forkpoint.cli.app import app
from forkpoint.cli.plan import parsed
from forkpoint.planner.estimate import estimate_recipe
from forkpoint.planner.hardware import HardwareConfig
from forkpoint.planner.recipe import Stage, read_recipe

REAL = Path(__file__).parents[1] / "recipes" / "real"
DOCS = Path(__file__).parents[1] / "docs" / "how-to"
RECIPES = sorted(REAL.glob("*.toml"))
OUT = Path("OUT")
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>")


def load_runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_recipes_run", REAL / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = load_runner()


# Without a GPU, a reader gets command lines that parse, and a plan.


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_command_line_is_one_of_forkpoint_or_of_a_file_beside_it(path: Path) -> None:
    for stage in read_recipe(path, OUT).stages:
        if stage.command[0] == "forkpoint":
            assert parsed(stage.command[1:])[0] == stage.command[1]
        else:
            assert stage.command[0] == "python" and Path(stage.command[1]).is_file()
        for word in stage.launcher:
            assert not word.endswith(".yaml") or Path(word).is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fits_the_gpus_that_it_is_planned_for(path: Path) -> None:
    estimates = estimate_recipe(read_recipe(path, OUT), HardwareConfig(), parsed)
    assert len(estimates) >= 3
    assert not [misfit for item in estimates for misfit in item.misfits]
    assert all(item.hours > 0 and item.flops > 0 for item in estimates)


def test_the_72b_recipe_does_not_fit_smaller_gpus_and_the_plan_says_so() -> None:
    found = estimate_recipe(
        read_recipe(REAL / "edu_prm_qwen2.5_72b.toml", OUT), HardwareConfig(gpu="H200"), parsed
    )
    assert {item.name: item.misfits for item in found if item.misfits} == {
        "train": ("training at 16 bytes per weight: 1,163 GB, and 8 x H200 have room for 1,015 GB",),
        "evaluate": ("the PRM's weights: 145 GB, and 1 x H200 have room for 127 GB",),
    }


def test_the_papers_numbers_are_on_the_command_lines() -> None:
    arguments = {
        stage.name: parsed(stage.command[1:])[1]
        for stage in read_recipe(REAL / "er_prm_mistral_7b.toml", OUT).stages[1:]
    }
    rollouts = arguments["label"]["rollouts"]
    assert (
        rollouts.num_solutions,
        rollouts.num_rollouts,
        rollouts.solution_temperature,
        rollouts.rollout_temperature,
    ) == (15, 16, 0.7, 1)
    assert (arguments["relabel"]["labels"].canonical_value, arguments["train"]["preset"]) == (
        "er:2",
        "er-prm",
    )
    raft = parsed(
        next(
            stage for stage in read_recipe(REAL / "raft_mistral_7b.toml", OUT).stages if stage.name == "raft"
        ).command[1:]
    )[1]
    config = raft["config"]
    assert (
        config.num_iterations,
        config.num_samples,
        config.temperature,
        config.select,
        config.aggregate,
    ) == (3, 16, 1, "prm", "min")
    assert (config.sft.learning_rate, config.sft.num_epochs, config.sft.batch_size) == (5e-7, 2, 128)
    edu = {
        stage.name: parsed(stage.command[1:])[1]
        for stage in read_recipe(REAL / "edu_prm_qwen2.5_7b.toml", OUT).stages
    }
    assert (edu["label"]["tree"].tau, edu["label"]["tree"].num_leaves, edu["train"]["preset"]) == (
        1.0,
        64,
        "edu-prm",
    )
    assert (edu["evaluate"]["config"].num_samples, edu["evaluate"]["config"].temperatures) == (64, (0.7,))


def test_the_table_of_the_page_is_what_the_planner_says() -> None:
    rows = [
        line
        for line in (DOCS / "real_scale.md").read_text().splitlines()
        if line.startswith("| `") and line.count("|") == 10
    ]
    expected = []
    for path in RECIPES:
        recipe = read_recipe(path, OUT)
        for item in estimate_recipe(recipe, HardwareConfig(), parsed):
            tokens = (item.sampled.sampled_tokens, item.read_tokens, item.trained_tokens)
            shown = " | ".join(f"{number / 1e6:,.1f}" for number in tokens)
            gpus = f"{item.num_gpus} x {recipe.gpu}"
            expected.append(
                f"| `{path.stem}` | {item.name} | {gpus} | {shown} | {item.flops:.1e} | {item.hours:.1f} | "
                f"{item.gpu_hours:.1f} |"
            )
    assert rows == expected, "\n".join(expected)


# Stand-ins for the real models.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save tiny checkpoints of Qwen2, Mistral, DeepSeek (a Llama) and Llama 3.1."""
    directory = tmp_path_factory.mktemp("models")
    sentencepiece, bytes_ = make_sentencepiece_tokenizer(), make_byte_tokenizer(LLAMA_SPECIAL, None)
    kinds = {
        "qwen2": make_byte_tokenizer(QWEN_SPECIAL, CHATML),
        "mistral": sentencepiece,
        "deepseek": bytes_,
        "llama": bytes_,
    }
    for name, tokenizer in kinds.items():
        sizes = {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "max_position_embeddings": 2048,
        }
        if name == "mistral":
            make_mistral(tokenizer).save_pretrained(directory / name)
        else:
            make_model("qwen2" if name == "qwen2" else "llama", **sizes).save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)
    return {name: directory / name for name in kinds}


def make_mistral(tokenizer: PreTrainedTokenizerFast) -> MistralForCausalLM:
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.6,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def problem_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write two problems for training and two for testing, in the formats of GSM8K and MATH."""
    directory = tmp_path_factory.mktemp("problems")
    found = {}
    for idx, split in enumerate(("train", "test")):
        gsm8k = [
            {"question": f"What is {idx} + {num}?", "answer": f"Add.\n#### {idx + num}"} for num in (3, 4)
        ]
        math = [
            {"problem": f"Simplify ${num}x - {idx}x$.", "solution": rf"It is $\boxed{{{num - idx}x}}$."}
            for num in (5, 6)
        ]
        for name, rows in (("gsm8k", gsm8k), ("math", math)):
            path = directory / f"{name}_{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            found[f"{name}_{split}"] = f"{name}:{path}"
    return found


def in_this_process(stage: Stage) -> int:
    """Run the stage in this process.

    Starting Python and loading torch for each would take longer than all stages.
    """
    if stage.command[0] == "forkpoint":
        return int(app(list(stage.command[1:]), result_action="return_value") or 0)
    script, *arguments = stage.command[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(script, run_name="__main__")
    return 0


def run_all(path: Path, out: Path, settings: list[str]) -> None:
    assert runner.run(read_recipe(path, out, settings).stages, out, in_this_process) == 0


LEARNS_NOTHING = "--allow-constant-labels"
"""No solution of a model with random weights is right."""
TINY = [
    "server=",
    "launcher=",
    "sampling=--batch-size 4",
    "serving=--batch-size 4",
    "samples=2",
    "max_tokens=12",
]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["7b", "72b"])
def test_edu_prm_runs_from_end_to_end_on_a_tiny_qwen2(
    size: str, models: dict[str, Path], problem_files: dict[str, str], tmp_path: Path
) -> None:
    sets = [f"train={problem_files['math_train']}", f"test={problem_files['math_test']}"]
    tiny = [
        *TINY,
        "leaves=2",
        f"policy={models['qwen2']}",
        f"base={models['qwen2']}",
        f"training=--micro-batch-size 1 --num-epochs 1 {LEARNS_NOTHING}",
    ]
    run_all(REAL / f"edu_prm_qwen2.5_{size}.toml", tmp_path, [*sets, *tiny])
    results = json.loads((tmp_path / "evaluate" / "results.json").read_text())
    assert {row["sampler"] for row in results["rows"]} == {"ht", "edu"}
    assert {row["aggregate"] for row in results["rows"] if row["select"] == "best"} == {
        "last",
        "min",
        "prod",
        "mean",
    }
    assert json.loads((tmp_path / "prm" / "forkpoint_prm.json").read_text())["segmentation"] == "entropy"


@dataclass(frozen=True)
class Finished:
    """A finished ER-PRM experiment, and its settings."""

    recipe: Path
    out: Path
    settings: list[str]


@pytest.fixture(scope="module")
def er_runs(
    models: dict[str, Path], problem_files: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Finished]:
    runs = {}
    for generator in ("mistral", "deepseek"):
        sets = [f"{name}={spec}" for name, spec in problem_files.items()]
        settings = [
            *TINY,
            *sets,
            "solutions=2",
            "rollouts=2",
            f"policy={models[generator]}",
            f"base={models['llama']}",
            f"training={LEARNS_NOTHING}",
        ]
        runs[generator] = Finished(
            REAL / f"er_prm_{generator}_7b.toml", tmp_path_factory.mktemp(generator), settings
        )
        run_all(runs[generator].recipe, runs[generator].out, settings)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(("generator", "value"), [("mistral", "er:2"), ("deepseek", "er:10")])
def test_er_prm_runs_from_end_to_end_on_tiny_models(
    generator: str, value: str, er_runs: dict[str, Finished]
) -> None:
    out = er_runs[generator].out
    assert json.loads((out / f"labels-{value}.label_config.json").read_text())["value"] == value
    prm_format = json.loads((out / f"prm-{value}" / "forkpoint_prm.json").read_text())
    assert (prm_format["tag"], prm_format["max_length"], prm_format["aggregate"]) == (" ки", 512, "min")
    assert all((out / f"evaluate-{name}-{value}" / "report.html").is_file() for name in ("gsm8k", "math"))


@pytest.mark.slow
def test_a_baseline_is_another_value_of_the_same_rollouts(er_runs: dict[str, Finished]) -> None:
    done = er_runs["mistral"]
    journal = (done.out / "rollouts" / "journal.jsonl").read_bytes()
    stages = read_recipe(done.recipe, done.out, [*done.settings, "value=mean"]).stages
    assert (
        runner.run(
            [stage for stage in stages if stage.name in ("label", "relabel")], done.out, in_this_process
        )
        == 0
    )
    assert (done.out / "rollouts" / "journal.jsonl").read_bytes() == journal
    assert (done.out / "labels-mean.jsonl").is_file()


@pytest.mark.slow
def test_raft_runs_from_end_to_end_on_a_tiny_mistral(
    er_runs: dict[str, Finished], models: dict[str, Path], problem_files: dict[str, str], tmp_path: Path
) -> None:
    prm = er_runs["mistral"].out / "prm-er:2"
    sets = [
        *(f"{name}={spec}" for name, spec in problem_files.items()),
        f"policy={models['mistral']}",
        f"prm={prm}",
        f"judge={prm}",
    ]
    tiny = ["server=", "launcher=", "sampling=--batch-size 4", "iterations=1", "samples=8", "max_tokens=48"]
    run_all(REAL / "raft_mistral_7b.toml", tmp_path, [*sets, *tiny])
    assert len(json.loads((tmp_path / "raft" / "raft.json").read_text())["iterations"]) == 2
    assert all(
        (tmp_path / name / "results.json").is_file()
        for name in ("base-gsm8k", "base-math", "tuned-gsm8k", "tuned-math")
    )


# The runner.


def write_recipe(path: Path, stages: str) -> Path:
    path.write_text(f'title = "t"\n[variables]\nwhat = "hello"\nmore = []\n{stages}')
    return path


def stage_of(name: str, code: str, rest: str = "") -> str:
    return (
        f"[[stages]]\nname = \"{name}\"\ncommand = '''python -c \"{code}\" {{out}} {{what}} {{more}}'''\n"
        f"{rest}\n"
    )


def test_a_run_stops_at_the_first_failure_and_continues_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fails_once = (
        "import sys, pathlib; flag = pathlib.Path(sys.argv[1], 'flag'); "
        "sys.exit(0 if flag.exists() else flag.touch() or 3)"
    )
    says = "import sys; print(sys.argv[2:])"
    path = write_recipe(
        tmp_path / "r.toml", stage_of("a", says) + stage_of("b", fails_once) + stage_of("c", says)
    )
    out = tmp_path / "a b"
    stages = read_recipe(path, out, ["what=x  y", "more=p 'q r'"]).stages
    assert runner.run(stages, out) == 3
    assert capfd.readouterr().out == "['x  y', 'p', 'q r']\n"
    assert runner.run(stages, out) == 0
    printed = capfd.readouterr()
    assert (
        printed.out == "['x  y', 'p', 'q r']\n"
        and "done already: a" in printed.err
        and "stage: b" in printed.err
    )
    assert runner.run(read_recipe(path, out).stages, out) == 0
    assert capfd.readouterr().out == "['hello']\n" * 2, "other arguments are another stage"


def test_forkpoint_is_started_by_its_launcher_or_by_this_python() -> None:
    launched = Stage("a", ("forkpoint", "grade"), launcher=("env", "A=1", "python", "-m"))
    assert runner.command_line(launched)[2:] == [
        sys.executable, "-m", "forkpoint", "grade",
    ]  # fmt: skip
    assert runner.execute(Stage("a", ("forkpoint", "--version"))) == 0


def test_a_server_answers_while_its_stage_runs_and_is_gone_after_it(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "health").write_text("ready")
    url = f"http://127.0.0.1:{port}/health"
    serve = f"{sys.executable} -m http.server {port} --bind 127.0.0.1 --directory {tmp_path}"
    asks = f"import urllib.request; urllib.request.urlopen('{url}').read()"
    path = write_recipe(
        tmp_path / "r.toml",
        stage_of("a", asks, f"server = '{serve}'\nhealth = '{url}'") + stage_of("b", asks),
    )
    stages = read_recipe(path, tmp_path).stages
    assert runner.run(stages[:1], tmp_path) == 0
    assert runner.run(stages[1:], tmp_path) == 1


def test_a_server_that_ends_before_it_is_ready_ends_the_run(tmp_path: Path) -> None:
    server = "server = 'false'\nhealth = 'http://127.0.0.1:9/health'"
    stages = read_recipe(write_recipe(tmp_path / "r.toml", stage_of("a", "pass", server)), tmp_path).stages
    with pytest.raises(RuntimeError, match="the server of a ended with status 1"):
        runner.run(stages, tmp_path)


@pytest.mark.parametrize(
    ("stages", "settings", "message"),
    [
        (stage_of("a", "pass"), ["wath=1"], "wath=1.*has what, more"),
        (stage_of("a", "pass"), ["what"], "not NAME=VALUE"),
        (stage_of("a", "pass", "num_gpus = 0"), [], "num_gpus must be a whole number above 0"),
        (stage_of("a", "pass", "problems = ['train']"), [], "problems 'train' are unknown"),
        (stage_of("a", "pass", "comand = 'x'"), [], "unknown: comand"),
        (stage_of("a", "{waht}"), [], "{waht} is unknown; there are out, here, what, more"),
        (stage_of("a", "pass") * 2, [], "each with a name of its own"),
        (stage_of("a", "pass", "server = 'x'"), [], "no health address"),
        ("", [], "needs \\[\\[stages\\]\\]"),
        ("[[stages", [], "is not TOML"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_with_a_reason(
    tmp_path: Path, stages: str, settings: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(write_recipe(tmp_path / "r.toml", stages), tmp_path, settings)


def test_a_dry_run_prints_the_command_lines_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            [
                "run.py",
                str(REAL / "er_prm_mistral_7b.toml"),
                "--out",
                str(tmp_path / "x"),
                "--dry-run",
                "--only",
                "train",
            ],
        )
        assert runner.main() == 0
    printed = capsys.readouterr().out
    assert (
        "fsdp_8gpu.yaml --num_processes 8 -m forkpoint train" in printed and "forkpoint label" not in printed
    )
    assert not (tmp_path / "x").exists()
