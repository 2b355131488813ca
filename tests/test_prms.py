"""PRM layout and scoring: one tag per step, the scores of one forward pass per step, and refusals."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, PreTrainedTokenizerFast

from checkpoints import make_checkpoint, make_tokenizer
from forkpoint.checkpoint import load_tokenizer
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.policies import LAB_POLICY
from forkpoint.prms import known_texts, load_prm
from forkpoint.prms.known_texts import MAX_KNOWN_LENGTH, KnownTexts
from forkpoint.prms.layout import FORMAT_FILE, Layout, PRMFormat
from forkpoint.prms.longest_token import longest_token
from forkpoint.prms.tagged import TaggedPRM
from forkpoint.steps import AnchorRule

TAG = PRMFormat(tag="#")


def make_prm(path: Path, prm_format: PRMFormat = TAG, architecture: str = "qwen2") -> Path:
    make_checkpoint(path, architecture)
    if prm_format.head == "classifier":
        AutoModelForTokenClassification.from_pretrained(path, num_labels=2).save_pretrained(path)
    prm_format.save(path)
    return path


def solutions(num: int) -> tuple[list[str], list[list[str]]]:
    rng = random.Random(0)
    words = ["12+7=19\n", "so ", "then x\n", "y", "The answer is 3"]
    return [f"question {idx}?" for idx in range(num)], [
        [rng.choice(words) for _ in range(rng.randint(1, 6))] for _ in range(num)
    ]


def test_there_is_one_tag_per_step_at_its_end() -> None:
    layout = Layout(make_tokenizer(), TAG)
    encoded = layout.encode("1+1?", ["1+1=2\n", "+2+"])
    assert "".join(layout._tokenizer.convert_ids_to_tokens(encoded.input_ids)) == "1+1?\n1+1=2\n#+2+#"
    assert encoded.tag_positions == [11, 15]
    assert all(encoded.input_ids[position] == layout.tag_id for position in encoded.tag_positions)


def test_a_tag_in_the_place_of_line_ends_leaves_the_text_as_it_was_written() -> None:
    tokenizer = make_tokenizer()
    layout = Layout(tokenizer, PRMFormat(tag="\n", replaces_line_end=True))
    question, steps = "1 + 2?", ["1 + 2 = 3\n", "no line end", "\n", "3\n"]
    row = layout.encode(question, steps)
    assert tokenizer.decode(row.input_ids) == "1 + 2?\n1 + 2 = 3\nno line end\n\n3\n"
    ends = [tokenizer.decode(row.input_ids[: place + 1]) for place in row.tag_positions]
    assert ends == [
        "1 + 2?\n1 + 2 = 3\n",
        "1 + 2?\n1 + 2 = 3\nno line end\n",
        "1 + 2?\n1 + 2 = 3\nno line end\n\n",
        "1 + 2?\n1 + 2 = 3\nno line end\n\n3\n",
    ]
    behind = Layout(tokenizer, PRMFormat(tag="\n")).encode(question, steps[:1])
    assert tokenizer.decode(behind.input_ids) == "1 + 2?\n1 + 2 = 3\n\n"


def test_a_text_with_the_tag_in_it_is_refused() -> None:
    layout = Layout(make_tokenizer(), TAG)
    with pytest.raises(LayoutError, match="step 2 contains '#', the step tag of this PRM"):
        layout.encode("1+1?", ["1+1=2\n", "2# so\n"])
    with pytest.raises(LayoutError, match="the question contains '#'"):
        layout.encode("1#1?", ["1+1=2\n"])
    lines = Layout(make_tokenizer(), PRMFormat(tag="\n"))
    assert lines.encode("1+1?", ["1+1=2\n", "2\n"]).tag_positions == [11, 14]


@pytest.mark.parametrize(
    ("prm_format", "message"),
    [
        (PRMFormat(tag="##"), "is 2 tokens"),
        (PRMFormat(tag="é"), "is unknown to this tokenizer"),
        (PRMFormat(tag="#", good="++"), "label token '\\+\\+' is 2 tokens"),
    ],
)
def test_a_tag_that_is_not_one_token_is_refused(prm_format: PRMFormat, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        Layout(make_tokenizer(), prm_format)


def test_a_long_text_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    read: list[str] = []
    encode = tokenizer.encode

    def recorded(text: str, **options: Any) -> list[int]:
        read.append(text)
        return list(encode(text, **options))

    monkeypatch.setattr(tokenizer, "encode", recorded)
    layout = Layout(tokenizer, TAG)
    short, long = "a" * MAX_KNOWN_LENGTH, "a" * (MAX_KNOWN_LENGTH + 1)
    for step in (short, long, short, long):
        with pytest.raises(TooLongError):
            layout.encode("question", [step])
    assert (read.count(short), read.count(long)) == (1, 2)


def test_remembered_texts_take_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_texts, "MAX_KNOWN_BYTES", 1 << 20)
    read: list[str] = []

    def tokenize(text: str) -> tuple[int, ...]:
        read.append(text)
        return tuple(1000 + ord(character) for character in text)

    known = KnownTexts(tokenize)
    tracemalloc.start()
    try:
        for idx in range(200):  # some 30 MiB
            assert len(known.tokens(f"{idx:04d}" * 1000)) == 4000
            assert known.tokens("the question") == known.tokens("the question")
        in_use, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert known.num_bytes <= 1 << 20
    assert 500_000 < in_use < 3_000_000
    assert read.count("the question") == 1  # read again and again, so never forgotten
    known.tokens("0199" * 1000)
    known.tokens("0000" * 1000)
    assert (read.count("0199" * 1000), read.count("0000" * 1000)) == (1, 2)


def test_refused_solutions_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are short enough to be remembered, of solutions that are refused for their length."""
    monkeypatch.setattr(known_texts, "MAX_KNOWN_BYTES", 1 << 20)
    layout = Layout(byte_level(), PRMFormat(tag="#", head="classifier", max_length=2000))
    tracemalloc.start()
    try:
        for idx in range(100):
            with pytest.raises(TooLongError, match="the solution takes"):
                layout.encode("q", [f"{idx} {number} " + "b" * 1000 for number in range(8)])
        in_use, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert in_use < 3_000_000


def test_a_solution_that_does_not_fit_is_refused_never_cut() -> None:
    layout = Layout(make_tokenizer(), PRMFormat(tag="#", max_length=10))
    assert len(layout.encode("ab", ["cde", "f"]).input_ids) == 9
    with pytest.raises(TooLongError, match=r"takes 11 tokens .* more than max_length 10"):
        layout.encode("abcd", ["cde", "f"])
    with pytest.raises(LayoutError, match="without steps"):
        layout.encode("ab", [])


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_scores_equal_one_forward_pass_per_step(tmp_path: Path, architecture: str, head: str) -> None:
    path = make_prm(tmp_path, PRMFormat(tag="#", head=head), architecture)  # type: ignore[arg-type]
    prm = load_prm(path)
    questions, steps = solutions(7)
    tokenizer = make_tokenizer()
    model_class = AutoModelForCausalLM if head == "tokens" else AutoModelForTokenClassification
    model = model_class.from_pretrained(path, dtype=torch.float32).eval()
    good, bad = (
        (tokenizer.convert_tokens_to_ids("+"), tokenizer.convert_tokens_to_ids("-"))
        if head == "tokens"
        else (1, 0)
    )
    for question, its_steps, scores in zip(questions, steps, prm.score(questions, steps), strict=True):
        assert len(scores) == len(its_steps)
        for num_steps, score in enumerate(scores, start=1):
            ids = tokenizer.encode(f"{question}\n" + "".join(f"{step}#" for step in its_steps[:num_steps]))
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            assert score == pytest.approx(
                torch.stack([logits[good], logits[bad]]).softmax(0)[0].item(), abs=1e-5
            )


def test_scores_do_not_depend_on_batching_or_order(tmp_path: Path) -> None:
    path = make_prm(tmp_path)
    questions, steps = solutions(20)
    together = load_prm(path).score(questions, steps)
    alone = [
        score
        for q, s in zip(questions, steps, strict=True)
        for score in TaggedPRM.load(path, batch_tokens=1).score([q], [s])
    ]
    backwards = load_prm(path).score(questions[::-1], steps[::-1])[::-1]
    for left, middle, right in zip(together, alone, backwards, strict=True):
        assert left == pytest.approx(middle, abs=1e-5)
        assert left == pytest.approx(right, abs=1e-5)
    assert len({round(score, 4) for scores in together for score in scores}) > 20


def test_the_format_survives_saving(tmp_path: Path) -> None:
    saved = PRMFormat(
        tag="#",
        segmentation="entropy",
        rule=AnchorRule(tau=0.7, min_gap=2),
        aggregate="prod",
        template="Q: {question} A: ",
    )
    saved.save(tmp_path)
    assert PRMFormat.load(tmp_path) == saved


def test_what_is_not_a_prm_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no PRM directory"):
        load_prm(tmp_path / "nothing")
    with pytest.raises(LayoutError, match=FORMAT_FILE):
        load_prm(tmp_path)
    (tmp_path / FORMAT_FILE).write_text(json.dumps({"format_version": 2}))
    with pytest.raises(LayoutError, match="format_version 2"):
        load_prm(tmp_path)
    (tmp_path / FORMAT_FILE).write_text(json.dumps({"format_version": 1, "tga": "#"}))
    with pytest.raises(LayoutError, match="unknown keys: tga"):
        load_prm(tmp_path)


def test_different_weights_have_different_names(tmp_path: Path) -> None:
    first = load_prm(make_prm(tmp_path / "a" / "prm")).name
    make_checkpoint(tmp_path / "b" / "prm", seed=1)
    TAG.save(tmp_path / "b" / "prm")
    assert first != load_prm(tmp_path / "b" / "prm").name
    assert first == load_prm(tmp_path / "a" / "prm").name


def byte_level(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """A BPE of bytes, with merges up to ` aaaa`."""
    merges = [("a", "a"), ("aa", "aa"), ("Ġ", "aaaa")]
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE({token: idx for idx, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


def test_the_longest_token_bounds_every_text() -> None:
    alone, nfc = byte_level(), byte_level(normalizers.NFC())
    assert (longest_token(alone), longest_token(nfc)) == (5, 20)
    lab = load_tokenizer(str(LAB_POLICY))
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(
            rng.choice(["a", " aaaa", "é", "e\u0301", "\u1fb7", "\n", "日", "7"]) for _ in range(40)
        )
        for tokenizer in (alone, nfc, lab):
            longest = longest_token(tokenizer)
            assert longest is not None
            assert len(text) <= longest * len(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda backend: setattr(backend, "normalizer", normalizers.Replace(Regex(" +"), " ")),
        lambda backend: setattr(backend, "normalizer", normalizers.NFKC()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda backend: backend.add_special_tokens([AddedToken("<tag>", rstrip=True)]),
    ],
)
def test_no_bound_is_given_if_a_tokenizer_may_drop_text(spoil: Callable[[Any], Any]) -> None:
    tokenizer = byte_level()
    spoil(tokenizer.backend_tokenizer)
    assert longest_token(tokenizer) is None
    assert longest_token(make_tokenizer()) is None  # unknown characters could be one token


@pytest.mark.parametrize(
    ("missing", "model", "pre_tokenizer"),
    [
        ("z", models.BPE, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ("<0x7A>", partial(models.BPE, byte_fallback=True, unk_token="<unk>", fuse_unk=True), None),
    ],
)
def test_no_bound_is_given_if_a_byte_is_not_in_the_vocabulary(
    missing: str, model: Callable[..., Any], pre_tokenizer: Any
) -> None:
    """A tokenizer drops such bytes, or makes one unknown token of many."""
    tokens = {"#", "q", *(f"<0x{byte:02X}>" for byte in range(256))}
    if pre_tokenizer is not None:
        tokens = set(pre_tokenizers.ByteLevel.alphabet())

    def tokenizer_of(tokens: set[str]) -> PreTrainedTokenizerFast:
        vocabulary = {token: idx for idx, token in enumerate(["<unk>", *sorted(tokens)])}
        backend = Tokenizer(model(vocabulary, []))
        if pre_tokenizer is not None:
            backend.pre_tokenizer = pre_tokenizer
        return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]

    assert longest_token(tokenizer_of(tokens)) is not None
    partial_one = tokenizer_of(tokens - {missing})
    assert longest_token(partial_one) is None
    layout = Layout(partial_one, PRMFormat(tag="#", head="classifier", max_length=40))
    assert len(layout.encode("q", ["z" * 1000]).input_ids) <= 40


def test_what_cannot_fit_is_refused_before_it_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    layout = Layout(tokenizer, PRMFormat(tag="#", head="classifier", max_length=10))
    with pytest.raises(TooLongError, match="the solution takes 52 tokens"):
        layout.encode("q", ["b" * 49])
    texts: list[str] = []
    monkeypatch.setattr(tokenizer, "encode", lambda text, **_: texts.append(text))
    with pytest.raises(TooLongError, match="has 51 characters, and no token has more than 5"):
        layout.encode("q", ["b" * 50])
    assert not texts
