"""Training: the loss by hand, learning what can be seen, and stopping at any moment."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import make_checkpoint
from forkpoint.checkpoint import load_tokenizer
from forkpoint.errors import ConfigDiffers
from forkpoint.formats.labels_file import read_labelled, write_labelled
from forkpoint.prms import load_prm
from forkpoint.prms.layout import EncodedSolution, Layout, PRMFormat
from forkpoint.prms.packing import INPUT_NAMES, takes_trees
from forkpoint.prms.tagged import tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.training.config import TrainConfig, TrainReport
from forkpoint.training.loop import LengthSampler, run_trainer
from forkpoint.training.prm import choose_solutions, train_prm
from forkpoint.training.prm_trainer import (
    TagCollator,
    _model,
    label_weights,
    layout_rows,
    pack_rows,
    soft_cross_entropy,
)
from labelled import label, visible_errors

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(
    learning_rate=3e-3,
    num_epochs=3,
    packing="flat",
    batch_size=16,
    micro_batch_size=16,
    save_every=5,
    held_out_share=0.0,
    format=PRMFormat(tag="#", max_length=128),
)


def test_soft_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    expected = -(0.75 * math.log(p) + 0.25 * math.log(1 - p)) - math.log(1 - q)
    assert soft_cross_entropy(logits, torch.tensor([0.75, 0.0])).item() == pytest.approx(expected)


def test_soft_cross_entropy_is_least_at_the_label() -> None:
    values = torch.tensor([0.3])
    losses = {
        p: soft_cross_entropy(torch.tensor([[math.log(p), math.log(1 - p)]]), values).item()
        for p in (0.2, 0.3, 0.4)
    }
    assert min(losses, key=losses.__getitem__) == 0.3


def test_the_collator_says_where_each_value_belongs() -> None:
    rows = pack_rows(
        [
            replace(visible_errors(1)[0], question=f"q{idx}", labels=tuple(label(value) for value in values))
            for idx, values in enumerate([(1.0, 0.25), (0.0,)])
        ],
        [EncodedSolution([5, 6, 9, 7, 9], [2, 4]), EncodedSolution([5, 9], [1])],
        max_nodes=0,
    )
    batch = TagCollator(pad_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 9, 7, 9], [5, 9, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert [batch[name].tolist() for name in ("tag_rows", "tag_columns", "labels")] == [
        [0, 0, 1],
        [2, 4, 1],
        [1.0, 0.25, 0.0],
    ]


@pytest.mark.parametrize("head", ["tokens", "classifier"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_a_packed_batch_has_the_gradient_of_its_solutions(
    tmp_path: Path, architecture: str, head: Any
) -> None:
    make_checkpoint(tmp_path, architecture, initializer_range=0.1)
    config = replace(CONFIG, format=replace(CONFIG.format, head=head))
    tokenizer = load_tokenizer(tmp_path)
    layout = Layout(tokenizer, config.format)
    torch.manual_seed(0)
    model = _model(str(tmp_path), config).eval()
    chosen, encoded, _ = layout_rows(visible_errors(5), layout)
    assert takes_trees(model, max(len(row.input_ids) for row in encoded))

    def gradients(max_nodes: int) -> tuple[float, int, dict[str, torch.Tensor]]:
        batch = TagCollator(pad_id=0)(pack_rows(chosen, encoded, max_nodes))
        inputs = {name: batch[name] for name in INPUT_NAMES if name in batch}
        loss = soft_cross_entropy(
            tag_logits(model, layout, inputs, batch["tag_rows"], batch["tag_columns"]), batch["labels"]
        )
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grads = {
            name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
        }
        return loss.item(), int(batch["input_ids"].numel()), grads

    flat_loss, flat_size, flat = gradients(0)
    tree_loss, tree_size, tree = gradients(1000)
    assert tree_size < 0.7 * flat_size
    assert tree_loss == pytest.approx(flat_loss, rel=1e-5)
    for name, gradient in flat.items():
        assert (tree[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_steps_count_by_the_evidence_for_their_labels() -> None:
    first, second = visible_errors(1)[:2]
    sure, guess = replace(label(1.0), low=1.0), replace(label(0.5), low=0.25, high=0.75)
    solutions = [replace(first, labels=(sure, guess)), replace(second, labels=(guess,))]
    assert label_weights(solutions, CONFIG) is None
    assert label_weights(solutions, replace(CONFIG, label_weighting="evidence")) == [[1.5, 0.75], [0.75]]
    unknown = replace(label(0.5), low=0.0, high=1.0)
    with pytest.raises(ValueError, match="needs labels with counts"):
        label_weights([replace(first, labels=(unknown,))], replace(CONFIG, label_weighting="evidence"))
    logits, values = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0.75, 0.0])
    each = [soft_cross_entropy(logits[[idx]], values[[idx]]).item() for idx in range(2)]
    weighted = soft_cross_entropy(logits, values, torch.tensor([0.5, 2.0])).item()
    assert weighted == pytest.approx(0.5 * each[0] + 2 * each[1])


@pytest.mark.slow
def test_training_on_trees_learns_what_flat_training_learns(tmp_path: Path) -> None:
    config = replace(
        CONFIG, packing="tree", num_epochs=12, batch_size=4, micro_batch_size=4, learning_rate=1e-2
    )
    path, report = trained(tmp_path, config)
    assert (report.packing, report.num_rows, report.num_steps) == ("tree", 160, 12 * 40 // 4)
    assert report.num_tokens < 0.85 * report.num_flat_tokens
    assert separation(path) > 0.6


def test_a_model_whose_window_is_too_short_for_trees_is_trained_flat(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "base", "llama", initializer_range=0.1)
    write_labelled(tmp_path / "labels.jsonl", visible_errors(4))
    config_file = tmp_path / "base" / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "sliding_window": 4}))
    report = train_prm(
        tmp_path / "labels.jsonl",
        str(tmp_path / "base"),
        tmp_path / "prm",
        replace(CONFIG, packing="tree", num_epochs=1),
    )
    assert report.packing == "flat" and report.num_tokens == report.num_flat_tokens


def trained(
    tmp_path: Path, config: TrainConfig = CONFIG, name: str = "prm", on_step: Any = None
) -> tuple[Path, TrainReport]:
    if not (tmp_path / "labels.jsonl").exists():
        write_labelled(tmp_path / "labels.jsonl", visible_errors(40))
        make_checkpoint(tmp_path / "base", initializer_range=0.1)
    report = train_prm(tmp_path / "labels.jsonl", str(tmp_path / "base"), tmp_path / name, config, on_step)
    return tmp_path / name, report


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def separation(path: Path) -> float:
    """Mean score of good steps minus mean score of bad ones, on solutions that were not trained on."""
    test = visible_errors(30, seed=1)
    scores = load_prm(path).score([item.question for item in test], [item.steps for item in test])
    by_label: dict[float, list[float]] = {0.0: [], 1.0: []}
    for item, step_scores in zip(test, scores, strict=True):
        for step_label, score in zip(item.labels, step_scores, strict=True):
            by_label[step_label.value].append(score)
    return sum(by_label[1.0]) / len(by_label[1.0]) - sum(by_label[0.0]) / len(by_label[0.0])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_a_prm_learns_errors_that_can_be_seen(tmp_path: Path, head: str) -> None:
    config = replace(CONFIG, num_epochs=12, learning_rate=1e-2, format=replace(CONFIG.format, head=head))  # type: ignore[arg-type]
    path, report = trained(tmp_path, config)
    assert report.num_rows == 160
    assert report.num_steps_labelled == sum(len(item.steps) for item in visible_errors(40))
    assert separation(path) > 0.6


def test_lora_trains_few_weights_and_saves_a_merged_model(tmp_path: Path) -> None:
    config = replace(CONFIG, num_epochs=12, learning_rate=1e-2, lora_rank=8)
    path, _ = trained(tmp_path, config)
    before, after = weights(tmp_path / "base"), weights(path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(any(target in name for target in config.lora_targets) for name in changed)
    assert separation(path) > 0.3


def test_micro_batches_add_up_to_the_same_training(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path, replace(CONFIG, num_epochs=1), "whole")
    parts, _ = trained(tmp_path, replace(CONFIG, num_epochs=1, micro_batch_size=4), "parts")
    before = weights(tmp_path / "base")
    for name, weight in weights(whole).items():
        assert torch.allclose(weight, weights(parts)[name], atol=5e-4), name
        assert not torch.equal(weight, before[name]) or "norm" in name or weight.numel() < 64, name


class Killed(Exception):
    pass


@pytest.mark.slow
def test_interrupted_training_continues_to_the_same_weights(tmp_path: Path) -> None:
    uninterrupted, _ = trained(tmp_path, name="once")

    def kill_at(step: int) -> Any:
        def on_step(num_done: int, num_steps: int, loss: float) -> None:
            if num_done == step:
                raise Killed

        return on_step

    for step in (
        3,
        8,
        12,
        27,
    ):  # before the first checkpoint, in the middle of an epoch, at its end, in the last one
        with pytest.raises(Killed):
            trained(tmp_path, name="often", on_step=kill_at(step))
    seen: list[int] = []
    often, _ = trained(
        tmp_path, name="often", on_step=lambda num_done, num_steps, loss: seen.append(num_done)
    )
    assert seen[0] == 26
    for name, weight in weights(uninterrupted).items():
        assert torch.equal(weight, weights(often)[name]), name


def test_a_finished_prm_is_left_alone_and_another_configuration_refused(tmp_path: Path) -> None:
    path, report = trained(tmp_path)
    stamp = (path / "model.safetensors").stat().st_mtime_ns
    assert trained(tmp_path)[1] == report
    assert (path / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigDiffers, match=r"learning_rate: 0\.003 there, 0\.1 here"):
        trained(tmp_path, replace(CONFIG, learning_rate=0.1))


def test_rows_that_do_not_fit_are_refused_and_counted(tmp_path: Path) -> None:
    config = replace(CONFIG, format=replace(CONFIG.format, max_length=18), num_epochs=1)
    _, report = trained(tmp_path, config)
    lengths = [
        len(item.question) + 1 + sum(len(step) + 1 for step in item.steps) for item in visible_errors(40)
    ]
    assert report.num_refused == sum(length > 18 for length in lengths) > 10
    assert report.refusals == {"too long": report.num_refused}
    assert report.num_rows + report.num_refused == 160


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"too long.: 160"):
        trained(tmp_path, replace(CONFIG, format=replace(CONFIG.format, max_length=3)))


def test_chosen_solutions_are_right_and_wrong_in_turn() -> None:
    def group(problem_id: str, num_right: int, num_wrong: int) -> list[LabelledSolution]:
        return [
            LabelledSolution(problem_id, "q", (f"{idx}",), (label(1.0),), idx < num_right)
            for idx in range(num_right + num_wrong)
        ]

    config = replace(CONFIG, max_solutions_per_problem=4)
    for num_right, num_wrong, expected in [(8, 8, 2), (1, 8, 1), (8, 1, 3), (0, 8, 0), (8, 0, 4), (1, 1, 1)]:
        chosen = choose_solutions(group("p", num_right, num_wrong), config)
        assert len(chosen) == min(4, num_right + num_wrong)
        assert sum(item.is_correct for item in chosen) == expected
        assert len(set(chosen)) == len(chosen)


def test_labelled_solutions_survive_the_disk(tmp_path: Path) -> None:
    solutions = visible_errors(3)
    assert write_labelled(tmp_path / "labels.jsonl", solutions) == 12
    assert list(read_labelled(tmp_path)) == solutions
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write(json.dumps({"steps": ["a"], "labels": []}) + "\n")
    with pytest.raises(ValueError, match="line 13: not a labelled solution"):
        list(read_labelled(tmp_path))
    with pytest.raises(FileNotFoundError, match="forkpoint label"):
        list(read_labelled(tmp_path / "elsewhere"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-100", "2", "50", "-0.1", '"0.5"', "null", "true"])
def test_a_label_that_is_no_number_from_0_to_1_is_refused_with_its_line(tmp_path: Path, number: str) -> None:
    path = tmp_path / "labels.jsonl"
    write_labelled(path, visible_errors(2))
    lines = path.read_text().splitlines()
    first_value = lines[2].index('"value": ') + len('"value": ')
    lines[2] = f"{lines[2][:first_value]}{number}{lines[2][lines[2].index(',', first_value) :]}"
    path.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"line 3: not a labelled solution: column 'value' must hold a number"
    ):
        train_prm(path, str(tmp_path / "base"), tmp_path / "prm", CONFIG)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("question", None),
        ("question", [{"role": "user", "content": "q"}]),
        ("question", 7),
        ("problem_id", None),
        ("is_correct", "false"),
        ("is_correct", 0),
        ("steps", "a"),
        ("steps", [None]),
        ("labels", None),
    ],
)
def test_a_cell_of_another_type_is_refused_with_its_line(tmp_path: Path, column: str, cell: Any) -> None:
    path = tmp_path / "labels.jsonl"
    write_labelled(path, visible_errors(1))
    row = {**json.loads(path.read_text().splitlines()[0]), column: cell}
    path.write_text(f"\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=f"line 2: not a labelled solution: column '{column}' must hold"):
        list(read_labelled(path))


def test_labels_that_are_all_equal_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    solutions = [
        replace(solution, labels=(label(0.0),) * len(solution.steps)) for solution in visible_errors(4)
    ]
    write_labelled(tmp_path / "labels.jsonl", solutions)
    arguments = (tmp_path / "labels.jsonl", str(make_checkpoint(tmp_path / "base")), tmp_path / "prm", CONFIG)
    with pytest.raises(ValueError, match=r"all labels at .*labels\.jsonl are 0, .*--allow-constant-labels"):
        train_prm(*arguments)
    assert train_prm(*arguments, allow_constant_labels=True).num_rows == 16
    assert train_prm(*arguments).num_rows == 16, "a finished PRM is left as it is"


def test_labels_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    solution = visible_errors(1)[0]
    spoilt = replace(solution, labels=(replace(label(0.5), value=math.nan),) * len(solution.steps))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_labelled(tmp_path / "labels.jsonl", [spoilt])
    assert not (tmp_path / "labels.jsonl").exists()


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 10, "micro_batch_size": 4}, {"learning_rate": 0.0}, {"num_epochs": 0.0}]
)
def test_impossible_configurations_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"multiple|above 0"):
        TrainConfig(**arguments)


def test_rows_are_shuffled_by_epoch_in_batches_of_similar_length() -> None:
    lengths = [(7 * idx) % 101 for idx in range(1003)]
    sampler = LengthSampler(lengths, 10, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(1003)) and list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == list(range(1003)) and second != first
    for order in (first, second):
        batches = [[lengths[idx] for idx in order[start : start + 10]] for start in range(0, 1003, 10)]
        assert max(lengths) in batches[0]
        assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 10
        assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)
    assert list(LengthSampler(lengths, 10, seed=1)) != first


def test_beta2_and_the_dropout_of_the_head_reach_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, num_epochs=1, format=replace(CONFIG.format, head="classifier"))
    seen = []

    def remember(trainer: Any, *rest: Any) -> Any:
        seen.append((trainer.args.adam_beta2, trainer.model.dropout.p))
        return run_trainer(trainer, *rest)

    monkeypatch.setattr("forkpoint.training.prm_trainer.run_trainer", remember)
    trained(tmp_path, config, "usual")
    path, _ = trained(tmp_path, replace(config, adam_beta2=0.98, head_dropout=0.0), "lab")
    assert seen == [(0.999, 0.1), (0.98, 0.0)]
    assert json.loads((path / "config.json").read_text())["classifier_dropout"] == 0.0
