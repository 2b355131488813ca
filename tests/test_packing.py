"""Packing: rows of one question as a tree, seen by each row as if it were alone."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from checkpoints import make_checkpoint, make_model, make_tokenizer
from forkpoint.prms.layout import EncodedSolution, PRMFormat
from forkpoint.prms.packing import Pack, group_rows, model_inputs, pack, tag_places, takes_trees
from forkpoint.prms.tagged import TaggedPRM


def random_rows(seed: int, num: int = 8, num_tokens: int = 3) -> list[EncodedSolution]:
    """Rows over few tokens, so that many share prefixes and some are prefixes of others."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num):
        ids = [1, 2, *(rng.randrange(num_tokens) for _ in range(rng.randint(1, 6)))]
        rows.append(
            EncodedSolution(ids, sorted(rng.sample(range(2, len(ids)), rng.randint(1, len(ids) - 2))))
        )
    return rows


def paths_of(packed: Pack) -> dict[int, list[int]]:
    """The tokens from the root to each node."""
    paths = {}
    for path, num_own in packed.paths():
        for depth in range(len(path) - num_own, len(path)):
            paths[path[depth]] = [packed.input_ids[node] for node in path[: depth + 1]]
    return paths


@pytest.mark.parametrize("seed", range(30))
def test_every_tag_sees_its_row_and_each_prefix_is_there_once(seed: int) -> None:
    rows = random_rows(seed)
    packed = pack(rows)
    prefixes = {tuple(row.input_ids[:end]) for row in rows for end in range(1, len(row.input_ids) + 1)}
    assert len(packed) == len(prefixes)
    paths, depths = paths_of(packed), packed.depths()
    assert paths.keys() == set(range(len(packed)))
    for row, tags in zip(rows, packed.tags, strict=True):
        for position, node in zip(row.tag_positions, tags, strict=True):
            assert paths[node] == row.input_ids[: position + 1]
            assert depths[node] == position


def test_inputs_by_hand() -> None:
    tree = pack([EncodedSolution([5, 6, 7], [2]), EncodedSolution([5, 8], [1])])
    chain = pack([EncodedSolution([5, 6], [1])])
    assert not tree.is_chain and chain.is_chain
    inputs = model_inputs([tree, chain], pad_id=0, dtype=torch.float32)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 5, 6]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 1, 0, 1]]
    ((paths, own, added),), place = inputs["routes"][0][:1], inputs["routes"][1]
    assert (paths.tolist(), own.tolist()) == ([[0, 1, 2], [4, 5, 0]], [[0, 1, 2], [4, 5, 0]])
    assert (added == 0).long().tolist() == [[[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]] * 2
    ((paths, own, added),) = inputs["routes"][0][1:]
    assert (paths.tolist(), own.tolist(), (added == 0).tolist()) == ([[0, 3]], [[3]], [[[[True, True]]]])
    assert place.tolist() == [0, 1, 2, 6, 3, 4]
    assert [places.tolist() for places in tag_places([tree, chain])] == [[0, 0, 0], [2, 3, 5]]
    chains = [chain, pack([EncodedSolution([5, 6, 7], [2])])]
    alone = model_inputs(chains, pad_id=0, dtype=torch.float32)
    assert alone["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]] and "position_ids" not in alone
    assert [places.tolist() for places in tag_places(chains)] == [[0, 1], [1, 2]]


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
    rows = [
        prm.layout.encode(question, its_steps).input_ids
        for question, its_steps in zip(questions, steps, strict=True)
    ]
    groups = [
        [row for row, question in zip(rows, questions, strict=True) if question == f"question {idx}?"]
        for idx in range(3)
    ]
    sizes = [len({tuple(row[:end]) for row in group for end in range(1, len(row) + 1)}) for group in groups]
    assert num_tokens == sum(sizes) < 0.65 * sum(map(len, rows))
    alone = [
        prm.score([question], [its_steps])[0] for question, its_steps in zip(questions, steps, strict=True)
    ]
    assert len({round(score, 6) for scores in alone for score in scores}) > 20
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_model_without_attention_is_scored_row_by_row() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.5
    )
    model = MambaForCausalLM(config)
    assert not takes_trees(model, 10)
    prm = TaggedPRM(model, tokenizer, PRMFormat(tag="#"), "mamba")
    together = prm.score(["q?", "q?"], [["a", "b"], ["a", "c"]])
    alone = [prm.score(["q?"], [steps])[0] for steps in (["a", "b"], ["a", "c"])]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_short_sliding_window_takes_no_trees(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert takes_trees(model, 100)
    model.config.sliding_window = 50
    assert takes_trees(model, 50) and not takes_trees(model, 51)
    model.config.use_sliding_window = False
    assert takes_trees(model, 51)


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_a_model_that_was_not_asked_fails_at_a_tree_instead_of_computing_something_else(
    architecture: str,
) -> None:
    tree = pack([EncodedSolution([5, 6, 7], [2]), EncodedSolution([5, 8], [1])])
    with pytest.raises(RuntimeError):
        make_model(architecture)(**model_inputs([tree], pad_id=0, dtype=torch.float32))


def test_trees_are_computed_under_autocast(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, initializer_range=0.2)
    prm = TaggedPRM(
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32),
        make_tokenizer(),
        PRMFormat(tag="#"),
        "autocast",
    )
    steps = [["a", "b"], ["a", "c"], ["a", "b", "d"]]
    exact = prm.score(["q?"] * 3, steps)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = prm.score(["q?"] * 3, steps)
    assert rounded != exact
    for one, other in zip(rounded, exact, strict=True):
        assert one == pytest.approx(other, abs=0.05)
