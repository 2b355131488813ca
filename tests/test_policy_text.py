"""A checkpoint read without its weights agrees with `LocalPolicy`, which loads the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints import make_checkpoint, make_model, make_tokenizer
from forkpoint.policies import LAB_POLICY
from forkpoint.policies.local import LocalPolicy
from forkpoint.policies.text import Checkpoint


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_it_says_what_the_loaded_model_says(tmp_path: Path, architecture: str) -> None:
    path = make_checkpoint(tmp_path, architecture)
    for checkpoint_path, template in ((path, None), (path, "Q: {question}"), (LAB_POLICY, None)):
        checkpoint = Checkpoint.load(checkpoint_path, template=template)
        policy = LocalPolicy.load(checkpoint_path, template=template)
        assert checkpoint.name(str(policy.model.dtype)) == policy.name
        assert (checkpoint.max_length, checkpoint.num_parameters) == (
            policy.max_length,
            policy.num_parameters,
        )
        assert (checkpoint.vocab_size, checkpoint.text.eos_ids) == (
            policy.model.config.vocab_size,
            policy.eos_ids,
        )
        ids = checkpoint.text.encode_question("5 × 4?")
        assert ids == policy.encode_question("5 × 4?")
        assert checkpoint.text.token_texts(ids) == policy.token_texts(ids)


def test_end_tokens_come_from_the_generation_configuration_else_the_model_s_else_the_tokenizer_s(
    tmp_path: Path,
) -> None:
    path = make_checkpoint(tmp_path)
    assert ends_after(path / "generation_config.json", [1, 7, 8]) == {1, 7, 8}
    (path / "generation_config.json").unlink()
    assert ends_after(path / "config.json", 9) == {9}
    assert ends_after(path / "config.json", None) == {1}


def ends_after(config: Path, eos_token_id: int | list[int] | None) -> frozenset[int]:
    """The end tokens of the checkpoint once its configuration file `config` has that entry."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": eos_token_id}))
    assert Checkpoint.load(config.parent).text.eos_ids == LocalPolicy.load(config.parent).eos_ids
    return Checkpoint.load(config.parent).text.eos_ids


def test_a_place_without_a_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model"):
        Checkpoint.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a directory with a model nor a model on the hub"):
        Checkpoint.load(str(tmp_path / "missing"))
    make_model().config.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert Checkpoint.load(tmp_path).num_parameters == make_model().num_parameters()
