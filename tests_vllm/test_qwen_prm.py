"""Checkpoints in the layout of Qwen2.5-Math-PRM: our scores equal those of vLLM itself, without forkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoModelForTokenClassification
from vllm import LLM
from vllm.config import PoolerConfig

from checkpoints import make_checkpoint, make_public_prm
from forkpoint.prms import load_prm
from forkpoint.prms.export import save_as_qwen
from forkpoint.prms.family import FamilyPRM
from forkpoint.prms.layout import EncodedSolution, Head, PRMFormat
from forkpoint.prms.qwen import QwenPRM
from forkpoint.prms.tagged import TaggedPRM

SIZES = {"hidden_size": 128, "initializer_range": 0.2}
"""The hidden size that vLLM's attention supports on a CPU with four heads."""


def solutions(num: int) -> tuple[list[str], list[list[str]]]:
    rng = random.Random(0)
    words = ["12 + 7 = 19\n", "so x = -3.\n", "y", "The answer is: 3"]
    return [f"What is {idx} + {idx}?" for idx in range(num)], [
        [rng.choice(words) for _ in range(rng.randint(1, 6))] for _ in range(num)
    ]


def served_scores(path: Path, tag_id: int, encoded: list[EncodedSolution]) -> list[list[float]]:
    """The output of vLLM's own step pooling, including softmax; entry 1 is good."""
    llm = LLM(
        model=str(path),
        runner="pooling",
        pooler_config=PoolerConfig(step_tag_id=tag_id, use_activation=True),
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_num_seqs=8,
        kv_cache_memory_bytes=1 << 27,
    )
    outputs = llm.encode(
        [{"prompt_token_ids": item.input_ids} for item in encoded],
        pooling_task="token_classify",
        use_tqdm=False,
    )
    return [output.outputs.data[:, 1].tolist() for output in outputs]


def assert_equal(left: list[list[float]], right: list[list[float]]) -> None:
    assert [len(scores) for scores in left] == [len(scores) for scores in right]
    for ours, theirs in zip(left, right, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert len({round(score, 3) for scores in left for score in scores}) > 10


def test_scores_of_a_qwen_checkpoint_are_vllm_s(tmp_path: Path) -> None:
    prm = load_prm(make_public_prm(tmp_path, "qwen", **SIZES), "cpu")
    assert isinstance(prm, FamilyPRM)
    assert isinstance(prm.family, QwenPRM)
    questions, steps = solutions(12)
    encoded = [
        prm.family.encode(question, solution) for question, solution in zip(questions, steps, strict=True)
    ]
    assert_equal(prm.score(questions, steps), served_scores(tmp_path, prm.family.tag_id, encoded))


@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_vllm_serves_a_prm_of_ours_that_was_saved_as_qwen(tmp_path: Path, head: Head) -> None:
    make_checkpoint(tmp_path / "ours", **SIZES)
    if head == "classifier":
        AutoModelForTokenClassification.from_pretrained(tmp_path / "ours", num_labels=2).save_pretrained(
            tmp_path / "ours"
        )
    PRMFormat(tag="#", head=head).save(tmp_path / "ours")
    ours = load_prm(tmp_path / "ours", "cpu")
    assert isinstance(ours, TaggedPRM)
    save_as_qwen(ours, tmp_path / "qwen")
    questions, steps = solutions(12)
    encoded = [
        ours.layout.encode(question, solution) for question, solution in zip(questions, steps, strict=True)
    ]
    assert_equal(ours.score(questions, steps), served_scores(tmp_path / "qwen", ours.layout.tag_id, encoded))
