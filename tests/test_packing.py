"""Packing: rows of one question as a tree, seen by each row as if it were alone."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from checkpoints import make_checkpoint, make_tokenizer
from forkpoint.prms.layout import EncodedSolution, PRMFormat
from forkpoint.prms.packing import Pack, group_rows, model_inputs, pack, takes_tree_mask
from forkpoint.prms.tagged import TaggedPRM


def random_rows(seed: int, num: int = 8, num_tokens: int = 3) -> list[EncodedSolution]:
    """Rows over few tokens, so that many share prefixes and some are prefixes of others."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num):
        ids = [1, 2, *(rng.randrange(num_tokens) for _ in range(rng.randint(1, 6)))]
        rows.append(EncodedSolution(ids, sorted(rng.sample(range(2, len(ids)), rng.randint(1, len(ids) - 2)))))
    return rows


def path_of(packed: Pack, column: int) -> list[int]:
    """The tokens that a node sees, by the definition of `ends`."""
    return [packed.input_ids[idx] for idx in range(column + 1) if column < packed.ends[idx]]


@pytest.mark.parametrize("seed", range(30))
def test_every_tag_sees_its_row_and_each_prefix_is_there_once(seed: int) -> None:
    rows = random_rows(seed)
    packed = pack(rows)
    prefixes = {tuple(row.input_ids[:end]) for row in rows for end in range(1, len(row.input_ids) + 1)}
    assert len(packed) == len(prefixes)
    for row, tags in zip(rows, packed.tags, strict=True):
        for position, column in zip(row.tag_positions, tags, strict=True):
            assert path_of(packed, column) == row.input_ids[: position + 1]
            assert packed.depths[column] == position


def test_inputs_by_hand() -> None:
    tree = pack([EncodedSolution([5, 6, 7], [2]), EncodedSolution([5, 8], [1])])
    chain = pack([EncodedSolution([5, 6], [1])])
    assert not tree.is_chain and chain.is_chain
    inputs = model_inputs([tree, chain], pad_id=0, dtype=torch.float32)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8], [5, 6, 0, 0]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 1], [0, 1, 0, 0]]
    seen = (inputs["attention_mask"] == 0).long().tolist()
    assert seen[0] == [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]]
    assert seen[1] == [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]
    alone = model_inputs([chain, pack([EncodedSolution([5, 6, 7], [2])])], pad_id=0, dtype=torch.float32)
    assert alone["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]] and "position_ids" not in alone


def test_groups_hold_one_question_and_at_most_so_many_tokens() -> None:
    rows = random_rows(0, num=40)
    questions = [f"q{idx % 3}" for idx in range(40)]
    groups = group_rows(questions, rows, max_nodes=20)
    assert sorted(itertools.chain(*groups)) == list(range(40))
    assert all(len({questions[idx] for idx in group}) == 1 for group in groups)
    assert all(len(group) == 1 or len(pack([rows[idx] for idx in group])) <= 20 for group in groups)
    assert max(map(len, groups)) > 3
    assert len(group_rows(questions, rows, max_nodes=10_000)) == 3
    assert len(group_rows(questions, rows, max_nodes=1)) == 40


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_scores_of_a_tree_equal_scores_one_by_one(tmp_path: Path, architecture: str) -> None:
    make_checkpoint(tmp_path, architecture, initializer_range=0.2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    prm = TaggedPRM(model, make_tokenizer(), PRMFormat(tag="#"), "tree")
    rng = random.Random(0)
    words = ["12+7=19\n", "so ", "then x\n", "y", "The answer is 3"]
    questions = [f"question {idx % 3}?" for idx in range(48)]
    steps = [[rng.choice(words) for _ in range(rng.randint(1, 6))] for _ in questions]
    num_tokens = 0

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal num_tokens
        num_tokens += kwargs["input_ids"].numel()

    together = prm.score(questions, steps)
    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    assert prm.score(questions, steps) == together
    handle.remove()
    rows = [prm.layout.encode(question, its_steps).input_ids for question, its_steps in zip(questions, steps, strict=True)]
    groups = [[row for row, question in zip(rows, questions, strict=True) if question == f"question {idx}?"] for idx in range(3)]
    sizes = [len({tuple(row[:end]) for row in group for end in range(1, len(row) + 1)}) for group in groups]
    assert num_tokens <= 3 * max(sizes) < 0.65 * sum(map(len, rows))
    alone = [prm.score([question], [its_steps])[0] for question, its_steps in zip(questions, steps, strict=True)]
    assert len({round(score, 6) for scores in alone for score in scores}) > 20
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_model_without_attention_is_scored_row_by_row() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.5)
    model = MambaForCausalLM(config)
    assert not takes_tree_mask(model, 10)
    prm = TaggedPRM(model, tokenizer, PRMFormat(tag="#"), "mamba")
    together = prm.score(["q?", "q?"], [["a", "b"], ["a", "c"]])
    alone = [prm.score(["q?"], [steps])[0] for steps in (["a", "b"], ["a", "c"])]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_short_sliding_window_takes_no_trees(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert takes_tree_mask(model, 100)
    model.config.sliding_window = 50
    assert takes_tree_mask(model, 50) and not takes_tree_mask(model, 51)
    model.config.use_sliding_window = False
    assert takes_tree_mask(model, 51)
