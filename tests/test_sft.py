"""Fine-tuning on completions: which tokens are learned, stopping at any moment, and a model like its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from checkpoints import make_checkpoint, make_model, make_tokenizer
from forkpoint.errors import ConfigDiffers
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.training.config import SFTConfig, SFTReport, SFTRow
from forkpoint.training.loop import IGNORED
from forkpoint.training.sft import TRAINING, collate, fine_tune, masked

pytestmark = pytest.mark.slow

CONFIG = SFTConfig(learning_rate=3e-3, num_epochs=3, batch_size=4, micro_batch_size=4, save_every=3)
QUESTIONS = [f"{left}+{right}?" for left in range(4) for right in range(4)]


def row(prompt: str, completion: str) -> SFTRow:
    tokenizer = make_tokenizer()
    return SFTRow(tuple(tokenizer.encode(prompt)), (*tokenizer.encode(completion), 1))


ROWS = [
    row(f"{question}\n", f"so {question[0]}, {question[2]}\n" * (1 + idx % 2))
    for idx, question in enumerate(QUESTIONS)
]
NUM_STEPS = 12  # 16 rows, 4 at a time, 3 times


def base_at(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    return path if path.exists() else make_checkpoint(path, initializer_range=0.1)


def tuned(
    tmp_path: Path, name: str, config: SFTConfig = CONFIG, on_step: Any = None
) -> tuple[Path, SFTReport]:
    return tmp_path / name, fine_tune(ROWS, base_at(tmp_path), tmp_path / name, config, on_step=on_step)


def loss_of(path: Path, rows: list[SFTRow]) -> float:
    """Nats per completion token, row by row without padding."""
    model = AutoModelForCausalLM.from_pretrained(path)  # in evaluation mode
    total, num_tokens = 0.0, 0
    for item in rows:
        ids = torch.tensor([[*item.prompt_ids, *item.completion_ids]])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        for position in range(len(item.prompt_ids), ids.shape[1]):
            total -= log_probs[position - 1, ids[0, position]].item()
            num_tokens += 1
    return total / num_tokens


def test_only_completion_tokens_have_labels_the_end_token_among_them() -> None:
    batch = collate([masked(SFTRow((5, 6, 7), (8, 1))), masked(SFTRow((5,), (9, 9, 9, 1)))])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1], [5, 9, 9, 9, 1]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, IGNORED, 8, 1], [IGNORED, 9, 9, 9, 1]]
    assert collate([masked(SFTRow((5,), (1,))), masked(SFTRow((5, 6), (1,)))])["attention_mask"].tolist() == [
        [1, 1, 0],
        [1, 1, 1],
    ]


def test_no_gradient_reaches_what_the_prompt_or_the_padding_predict() -> None:
    model = make_model()
    rows = [SFTRow((5, 6, 7), (8, 1)), SFTRow((5,), (9, 9, 9, 9, 1))]
    output: Any = model(**collate([masked(item) for item in rows]))
    output.logits.retain_grad()
    output.loss.backward()
    gradients_B_T = output.logits.grad.abs().sum(-1)
    for row_idx, item in enumerate(rows):
        first, end = len(item.prompt_ids) - 1, len(item.prompt_ids) + len(item.completion_ids) - 1
        has_gradient = [first <= position < end for position in range(6)]
        assert (gradients_B_T[row_idx] > 0).tolist() == has_gradient


def test_fine_tuning_lowers_the_loss_and_reports_it(tmp_path: Path) -> None:
    path, report = tuned(tmp_path, "policy", replace(CONFIG, num_epochs=10))
    assert report.num_rows == 16
    assert report.num_tokens == sum(len(item.completion_ids) for item in ROWS)
    before, after = loss_of(tmp_path / "base", ROWS), loss_of(path, ROWS)
    assert report.first_loss == pytest.approx(before, rel=0.2)
    assert after == pytest.approx(report.loss, rel=0.2)
    assert after < 0.5 * before


def test_micro_batches_add_up_to_the_same_training(tmp_path: Path) -> None:
    whole, _ = tuned(tmp_path, "whole")
    parts, _ = tuned(tmp_path, "parts", replace(CONFIG, micro_batch_size=1))
    for name, weight in load_file(whole / "model.safetensors").items():
        assert torch.allclose(weight, load_file(parts / "model.safetensors")[name], atol=1e-3), name


def test_lora_trains_few_weights_and_saves_a_merged_model(tmp_path: Path) -> None:
    config = replace(CONFIG, lora_rank=8, learning_rate=2e-2)
    path, _ = tuned(tmp_path, "policy", config)
    before, after = load_file(tmp_path / "base" / "model.safetensors"), load_file(path / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(any(target in name for target in config.lora_targets) for name in changed)
    assert loss_of(path, ROWS) < loss_of(tmp_path / "base", ROWS)


class Killed(Exception):
    pass


def kill_at(step: int) -> Callable[[int, int, float], None]:
    def on_step(num_done: int, num_steps: int, loss: float) -> None:
        if num_done == step:
            raise Killed

    return on_step


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_interrupted_fine_tuning_continues_to_the_same_bytes(tmp_path: Path, lora_rank: int) -> None:
    config = replace(CONFIG, lora_rank=lora_rank)
    once, expected = tuned(tmp_path, "once", config)
    for step in (2, 8):  # before the first checkpoint, after the second
        with pytest.raises(Killed):
            tuned(tmp_path, "often", config, kill_at(step))
    checkpoints = tmp_path / "often" / TRAINING / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-3", "checkpoint-6"}
    state = checkpoints / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:50])  # killed while it was written
    seen: list[int] = []
    often, report = tuned(tmp_path, "often", config, lambda num_done, num_steps, loss: seen.append(num_done))
    assert seen == list(range(4, NUM_STEPS + 1))
    assert report == expected
    assert (often / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()
    assert not checkpoints.exists()


def test_a_finished_model_is_left_alone_and_other_arguments_are_refused(tmp_path: Path) -> None:
    path, report = tuned(tmp_path, "policy")
    stamp = (path / "model.safetensors").stat().st_mtime_ns
    assert tuned(tmp_path, "policy")[1] == report
    assert (path / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigDiffers, match=r"sft.learning_rate: 0.003 there, 0.1 here"):
        tuned(tmp_path, "policy", replace(CONFIG, learning_rate=0.1))
    with pytest.raises(ConfigDiffers, match=r"num_rows: 16 there, 15 here"):
        fine_tune(ROWS[:15], base_at(tmp_path), path, CONFIG)


def test_the_new_policy_has_the_template_and_the_end_tokens_of_its_base(tmp_path: Path) -> None:
    base = base_at(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<user>{{ m.content }}{% endfor %}<assistant>"
    tokenizer.save_pretrained(base)
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 2]}))
    old, new = load_policy(base), load_policy(tuned(tmp_path, "policy")[0])
    assert new.encode_question("1+1?") == old.encode_question("1+1?")
    assert len(new.encode_question("1+1?")) == 6  # the template has two tokens of its own
    assert new.eos_ids == old.eos_ids == {1, 2}
    kept = [
        json.loads((path / "config.json").read_text())["use_cache"] for path in (base, tmp_path / "policy")
    ]
    assert kept == [True, True]


def test_the_lab_policy_is_tokenized_as_before(tmp_path: Path) -> None:
    old = load_policy("lab")
    question = "Mia has 24 shells. Monday: finds 13 shells. How many shells does Mia have?"
    config = replace(CONFIG, learning_rate=1e-4, num_epochs=1, batch_size=1, micro_batch_size=1)
    fine_tune([SFTRow(old.encode_question(question), (7, 8, 1))], LAB_POLICY, tmp_path / "policy", config)
    new = load_policy(str(tmp_path / "policy"))
    assert new.encode_question(question) == old.encode_question(question)
    assert (new.eos_ids, new.max_length, new.num_parameters) == (
        old.eos_ids,
        old.max_length,
        old.num_parameters,
    )
    assert new.name != old.name


def test_rows_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    base = base_at(tmp_path)
    for rows, message in [
        ([], "nothing to fine-tune on"),
        ([ROWS[0], SFTRow((5,), (1000,))], "row 1 has token ids outside of the model's 101"),
        ([SFTRow((5,) * 200, (6,) * 57)], "row 0 has 257 tokens, more than the model's 256 positions"),
    ]:
        with pytest.raises(ValueError, match=message):
            fine_tune(rows, base, tmp_path / "policy", CONFIG)
    assert not (tmp_path / "policy").exists()
    with pytest.raises(ValueError, match="at least one prompt token"):
        SFTRow((), (1,))


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 10, "micro_batch_size": 4},
        {"learning_rate": 0.0},
        {"warmup_share": 1.0},
        {"dtype": "float8"},
        {"save_every": 0},
    ],
)
def test_impossible_configurations_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"multiple|above 0|in \[0, 1\)|unknown|at least 1"):
        SFTConfig(**arguments)
