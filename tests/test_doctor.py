"""The doctor: an example broken in one way triggers each check, and a healthy example passes it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from checkpoints import CHATML, make_checkpoint, make_public_prm, make_tokenizer
from forkpoint import formats
from forkpoint.cli import main
from forkpoint.cli.doctor import SHOWN_DETAILS
from forkpoint.doctor.data import HARD_ONLY, examine_data
from forkpoint.doctor.data_format import recognise_format
from forkpoint.doctor.finding import Finding
from forkpoint.doctor.kind import kind_of
from forkpoint.doctor.overlap import TestSet as Questions
from forkpoint.doctor.overlap import find_overlaps, words
from forkpoint.doctor.policy import (
    check_anchors,
    check_completions,
    check_entropies,
    check_length,
    check_round_trip,
    examine_policy,
)
from forkpoint.doctor.prm import check_layout, check_scores, examine_prm
from forkpoint.doctor.reader import Encoder, reader_of
from forkpoint.doctor.samples import ORDINARY, PAIRS, QUESTIONS, Sample
from forkpoint.doctor.sandbox import CONFINED, examine_sandbox
from forkpoint.formats.labels_file import labels_digest, write_labelled
from forkpoint.grading.sandbox import choose
from forkpoint.grading.sandbox.launch import LEVELS
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms import load_prm
from forkpoint.prms.families import FAMILIES, PUBLISHED
from forkpoint.prms.layout import EncodedSolution, PRMFormat
from forkpoint.records import Label, LabelledSolution, Request

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FORKPOINT_DATA", ROOT.parent / "shared" / "data"))
NAMES = {family: name for name, family in PUBLISHED.items()}


def by_check(findings: Sequence[Finding] | Iterator[Finding]) -> dict[str, Finding]:
    found = list(findings)
    assert len({finding.check for finding in found}) == len(found), "every check is made once"
    return {finding.check: finding for finding in found}


def assert_only(findings: dict[str, Finding], check: str, verdict: str, text: str, follows: str = "") -> None:
    """Assert that `check` has this verdict for this reason, and only `follows` found another problem."""
    assert findings[check].verdict == verdict, findings[check]
    assert re.search(text, findings[check].text), findings[check].text
    assert [
        finding
        for finding in findings.values()
        if finding.verdict == "problem" and finding.check not in (check, follows)
    ] == []


def our_prm(path: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a random PRM of ours, which is healthy unless `changes` to its format break it."""
    make_checkpoint(path, seed=seed, max_position_embeddings=512)
    PRMFormat(**{"tag": "#", "max_length": 512, **changes}).save(path)
    return path


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return our_prm(tmp_path_factory.mktemp("healthy") / "prm")


# PRMs


def test_a_healthy_prm_has_no_problem(healthy: Path) -> None:
    findings = by_check(examine_prm(healthy, "cpu"))
    unscored = ["tag", "labels", "places", "truncation", "max_length", "weights", "vocabulary"]
    assert list(findings) == [*unscored, "finite", "constant", "batching", "separation"]
    assert {finding.verdict for check, finding in findings.items() if check != "separation"} == {"ok"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_checkpoint_of_a_public_family_has_no_problem_and_is_not_the_published_one(
    family: str, tmp_path: Path
) -> None:
    path = make_public_prm(tmp_path / NAMES.get(family, family), family)
    options = (
        {"reference": make_public_prm(tmp_path / "reference", "implicit", seed=1)}
        if family == "implicit"
        else {}
    )
    findings = by_check(examine_prm(path, "cpu", options=options))
    assert [finding for finding in findings.values() if finding.verdict == "problem"] == []
    is_known = family in ("math-shepherd", "er-prm", "rlhflow", "qwen")
    assert findings["labels"].verdict == ("warning" if is_known else "ok")
    letters = findings["places"].details  # the tokenizer of er-prm has a token for the tag and a Z
    assert len(letters) == (1 if family == "er-prm" else 0)


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "text"),
    [
        ({"tag": "##"}, "tag", "problem", "the step tag '##' is 2 tokens"),
        (
            {"max_length": 513},
            "max_length",
            "problem",
            "up to 513 tokens are read by a model of 512 positions",
        ),
        ({"max_length": 200}, "max_length", "warning", "at most 200 tokens"),
        ({"max_length": 60}, "places", "problem", r"\d of 6 ordinary solutions are refused"),
    ],
)
def test_a_format_that_does_not_fit_is_found(
    changes: dict[str, Any], check: str, verdict: str, text: str, tmp_path: Path
) -> None:
    assert_only(by_check(examine_prm(our_prm(tmp_path / "prm", **changes), "cpu")), check, verdict, text)


def test_good_and_bad_of_one_token_are_found(tmp_path: Path) -> None:
    findings = by_check(examine_prm(our_prm(tmp_path / "prm", good="+", bad="+"), "cpu"))
    assert_only(findings, "labels", "problem", "good and bad are the same token", follows="constant")


class Changed:
    """An encoder that changes the result of another."""

    def __init__(self, encoder: Encoder, change: Callable[[EncodedSolution], EncodedSolution]) -> None:
        self._encoder, self._change = encoder, change

    def encode(self, question: str, steps: tuple[str, ...], /) -> EncodedSolution:
        return self._change(self._encoder.encode(question, steps))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: replace(row, tag_positions=row.tag_positions[1:]), r"\d places for \d steps"),
        (
            lambda row: replace(row, tag_positions=[position + 1 for position in row.tag_positions]),
            "not one after another within",
        ),
        (
            lambda row: replace(row, input_ids=[len(row.input_ids), *row.input_ids[1:]]),
            "change with what follows",
        ),
    ],
)
def test_places_that_are_not_those_of_the_steps_are_found(
    change: Callable[[EncodedSolution], EncodedSolution], fault: str, healthy: Path
) -> None:
    reader = reader_of(healthy)
    findings = by_check(check_layout(replace(reader, encoder=Changed(reader.encoder, change), tag_id=None)))
    assert findings["places"].verdict == "problem"
    assert any(re.search(fault, detail) for detail in findings["places"].details)


def test_a_tag_that_steps_are_not_read_at_is_found(healthy: Path) -> None:
    findings = by_check(check_layout(replace(reader_of(healthy), tag_id=7)))
    assert_only(findings, "tag", "problem", "the step tag is the token 7, but steps are read at '#'")


def test_a_layout_that_cuts_instead_of_refusing_is_found(healthy: Path) -> None:
    class Cutting:
        def encode(self, question: str, steps: tuple[str, ...], /) -> EncodedSolution:
            return reader_of(healthy).encoder.encode(question, tuple(step[:20] for step in steps))

    findings = by_check(check_layout(replace(reader_of(healthy), encoder=Cutting())))
    assert_only(findings, "truncation", "problem", "longer than 512 tokens is read as")


def test_solutions_that_cannot_be_scored_are_counted_by_reason(healthy: Path) -> None:
    fits, long = Sample("a", "1 + 1?", ("2",)), Sample("b", "1 + 1?", ("2" * 600,))
    assert by_check(examine_prm(healthy, "cpu", solutions=[fits]))["solutions"].verdict == "ok"
    findings = by_check(examine_prm(healthy, "cpu", solutions=[fits, long]))
    assert_only(findings, "solutions", "problem", r"1 of 2 solutions cannot be scored \(1 too long\)")
    assert findings["solutions"].details[0].startswith("b: ")


def without(path: Path, name: str) -> Path:
    """Remove one weight from the checkpoint."""
    weights = load_file(path / "model.safetensors")
    del weights[name]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_missing_and_torn_weights_are_findings_not_tracebacks(tmp_path: Path) -> None:
    ours = without(our_prm(tmp_path / "ours"), "lm_head.weight")
    assert_only(by_check(examine_prm(ours, "cpu")), "weights", "problem", r"lacks lm_head\.weight")
    qwen = without(make_public_prm(tmp_path / "qwen", "qwen"), "score.2.bias")
    assert_only(by_check(examine_prm(qwen, "cpu")), "weights", "problem", r"lacks score\.2\.bias")
    torn = our_prm(tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:5000])
    assert_only(by_check(examine_prm(torn, "cpu")), "weights", "problem", "cannot be loaded")
    (torn / "model.safetensors").unlink()
    assert_only(by_check(examine_prm(torn, "cpu")), "weights", "problem", "cannot be loaded")


@pytest.mark.parametrize(
    ("names", "verdict"), [({0: "bad", 1: "good"}, "ok"), ({0: "good", 1: "bad"}, "problem")]
)
def test_classes_in_the_wrong_order_are_found(names: dict[int, str], verdict: str, tmp_path: Path) -> None:
    path = our_prm(tmp_path / "prm", head="classifier")
    model = AutoModelForTokenClassification.from_pretrained(
        path, id2label=names, label2id={name: idx for idx, name in names.items()}
    )
    model.save_pretrained(path)
    assert_only(by_check(examine_prm(path, "cpu")), "classes", verdict, "is read as good")


def test_a_tokenizer_with_more_tokens_than_the_model_is_found(tmp_path: Path) -> None:
    path, tokenizer = our_prm(tmp_path / "prm"), make_tokenizer()
    tokenizer.add_tokens(["<step>"])
    tokenizer.save_pretrained(path)
    assert_only(
        by_check(examine_prm(path, "cpu")), "vocabulary", "problem", "knows 102 tokens and the model 101"
    )
    assert_only(
        by_check(examine_policy(path, "cpu", max_tokens=4)),
        "vocabulary",
        "problem",
        "knows 102 tokens and the model 101",
    )


def test_weights_that_are_not_numbers_are_found(tmp_path: Path) -> None:
    path = our_prm(tmp_path / "prm")
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][:] = math.nan
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    assert_only(by_check(examine_prm(path, "cpu")), "finite", "problem", "not numbers from 0 to 1")
    assert_only(
        by_check(examine_policy(path, "cpu", max_tokens=4)), "entropies", "problem", "impossible values"
    )


class ScriptedScorer:
    """Scores by a function of the step and the number of solutions in the batch."""

    name = "scripted"

    def __init__(self, function: Callable[[str, int], float]) -> None:
        self._function = function

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[self._function(step, len(questions)) for step in its_steps] for its_steps in steps]


WRONG_STEPS = {step for pair in PAIRS for step in pair.wrong if step not in pair.right}


@pytest.mark.parametrize(
    ("function", "check", "verdict", "text"),
    [
        (
            lambda step, _: 0.1 if step in WRONG_STEPS else 0.9,
            "separation",
            "ok",
            "3 of 3 built-in right solutions score above",
        ),
        (
            lambda step, _: 0.9 if step in WRONG_STEPS else 0.1,
            "separation",
            "warning",
            "0 of 3 built-in right solutions",
        ),
        (
            lambda step, _: math.nan if step in WRONG_STEPS else 0.9,
            "finite",
            "problem",
            "3 of 6 solutions have scores that are not",
        ),
        (lambda step, _: 1.5 if step in WRONG_STEPS else 0.9, "finite", "problem", "not numbers from 0 to 1"),
        (lambda step, _: 0.5, "constant", "problem", "every step scores 0.5"),
        (
            lambda step, size: 0.1 if step in WRONG_STEPS else 0.9 - size / 1000,
            "batching",
            "problem",
            "changes by 0.005 .*more than 0.0001",
        ),
    ],
)
def test_unsound_scores_are_found(
    function: Callable[[str, int], float], check: str, verdict: str, text: str
) -> None:
    assert_only(by_check(check_scores(ScriptedScorer(function), "min", 1e-4, ORDINARY)), check, verdict, text)


def test_what_the_doctor_reads_is_what_load_prm_reads(healthy: Path) -> None:
    prm, reader = load_prm(healthy, "cpu"), reader_of(healthy)
    for sample in ORDINARY:
        assert reader.encoder.encode(sample.question, sample.steps) == prm.encode(
            sample.question, sample.steps
        )


# policies


def chat_policy(path: Path, eos: str = "<|im_end|>", template: str = CHATML) -> Path:
    """Save a random model with Qwen's tokenizer and a chat template."""
    make_public_prm(path, "implicit")
    (path / "chat_template.jinja").write_text(template)
    tokenizer = reader_of(path, "implicit").tokenizer
    for name in ("config.json", "generation_config.json"):
        said = json.loads((path / name).read_text())
        (path / name).write_text(
            json.dumps(said | {"eos_token_id": tokenizer.convert_tokens_to_ids(eos) if eos else 4000})
        )
    return path


def test_a_healthy_policy_has_no_problem(tmp_path: Path) -> None:
    findings = by_check(
        examine_policy(chat_policy(tmp_path / "chat"), "cpu", max_tokens=8, questions=["1 + 1?"])
    )
    assert list(findings) == [
        "weights", "vocabulary", "template", "end tokens", "prompt", "round trip", "max_length",
        "greedy", "entropies", "anchors"
    ]  # fmt: skip
    assert {finding.verdict for check, finding in findings.items() if check not in ("greedy", "anchors")} == {
        "ok"
    }
    assert "chat template" in findings["template"].text


def test_a_template_that_leaves_the_question_out_or_is_missing_is_found(tmp_path: Path) -> None:
    deaf = chat_policy(tmp_path / "deaf", template=CHATML.replace("{{ message.content }}", ""))
    assert_only(
        by_check(examine_policy(deaf, "cpu", max_tokens=4)),
        "template",
        "problem",
        "the question is not in the prompt",
    )
    assert_only(
        by_check(examine_policy(deaf, "cpu", "Q: {question}\n", 4)),
        "template",
        "ok",
        "the template that was given",
    )
    assert_only(
        by_check(examine_policy(deaf, "cpu", "Q:", 4)), "template", "problem", "does not contain {question}"
    )
    plain = make_checkpoint(tmp_path / "plain")
    findings = by_check(examine_policy(plain, "cpu", max_tokens=4))
    assert_only(findings, "template", "warning", "there is no chat template")
    assert_only(
        findings, "round trip", "warning", r"\d of \d+ texts do not come back"
    )  # its tokenizer has only ASCII


def test_end_tokens_that_are_missing_unknown_or_not_the_template_s_are_found(tmp_path: Path) -> None:
    other = chat_policy(tmp_path / "other", eos="<|endoftext|>")
    assert_only(
        by_check(examine_policy(other, "cpu", max_tokens=4)),
        "end tokens",
        "problem",
        r"ends an answer with '<\|im_end\|>'",
    )
    assert by_check(examine_policy(other, "cpu", "{question}", 4))["end tokens"].verdict == "ok"
    unknown = chat_policy(tmp_path / "unknown", eos="")
    assert_only(
        by_check(examine_policy(unknown, "cpu", max_tokens=4)),
        "end tokens",
        "problem",
        r"\[4000\] are not tokens of this model",
    )
    endless = make_checkpoint(tmp_path / "endless", eos_token_id=None)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(endless)
    assert_only(
        by_check(examine_policy(endless, "cpu", max_tokens=4)),
        "end tokens",
        "problem",
        "there is no end token",
    )


def test_a_prompt_that_ends_or_begins_twice_is_found(tmp_path: Path) -> None:
    chat = chat_policy(tmp_path / "chat")
    assert_only(
        by_check(examine_policy(chat, "cpu", "{question}<|im_end|>", 4)),
        "prompt",
        "warning",
        "end a prompt with the end token",
    )
    llama = make_public_prm(tmp_path / "llama", "rlhflow")
    assert_only(
        by_check(examine_policy(llama, "cpu", "{question}\n", 4)),
        "prompt",
        "ok",
        "2 tokens besides the question",
    )
    twice = "<|begin_of_text|><|begin_of_text|>{question}\n"
    assert_only(
        by_check(examine_policy(llama, "cpu", twice, 4)),
        "prompt",
        "problem",
        r"begins with '<\|begin_of_text\|>' twice",
    )


def test_missing_weights_of_a_policy_are_found(tmp_path: Path) -> None:
    path = without(make_checkpoint(tmp_path / "policy"), "lm_head.weight")
    assert_only(
        by_check(examine_policy(path, "cpu")), "weights", "problem", "1 weights are not in the checkpoint"
    )


class Characters:
    """The part of a tokenizer that the round trip needs."""

    def encode(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        return ScriptedPolicy({}).encode(text)


def test_tokens_that_do_not_add_up_to_the_text_are_found() -> None:
    class Stuttering(ScriptedPolicy):
        def token_texts(self, token_ids: Sequence[int]) -> list[str]:
            return [2 * text for text in super().token_texts(token_ids)]

    assert check_round_trip(ScriptedPolicy({}), Characters()).verdict == "ok"
    assert check_round_trip(Stuttering({}), Characters()).verdict == "problem"


def test_prompts_that_leave_no_room_are_found(tmp_path: Path) -> None:
    class Short(ScriptedPolicy):
        @property
        def max_length(self) -> int:  # type: ignore[override]
            return 30

    assert check_length(ScriptedPolicy({}), ["1 + 1?"], 9)[0].verdict == "warning"
    assert check_length(Short({}), ["1 + 1?"], 9)[0].verdict == "ok"
    assert check_length(Short({}), ["1 + 1?"], 90)[0].verdict == "warning"
    assert check_length(Short({}), QUESTIONS, 9)[0].verdict == "problem"


def test_completions_that_do_not_end_or_never_fork_or_are_no_numbers_are_found() -> None:
    table = {"": {"a": 0.6, "b": 0.4}, "a": {"c": 0.5, "d": 0.5}}
    policy = ScriptedPolicy(table)
    prompt = policy.encode_question("?")
    ended, cut = policy.generate([Request(prompt, 9), Request(prompt, 1)])
    assert check_completions([ended, ended], 9).verdict == "ok"
    assert "1 of 2 greedy completions end within 9" in check_completions([ended, cut], 9).text
    assert check_completions([ended, cut], 9).verdict == "warning"
    assert check_entropies([ended], 4).verdict == "ok"
    assert check_entropies([ended], 1).verdict == "problem"
    assert check_entropies([replace(ended, entropies=(math.nan, 0.0, 0.0))], 4).verdict == "problem"
    assert "2.0 anchors" in check_anchors(policy, [ended], 0.6).text
    assert check_anchors(policy, [ended], 0.6).verdict == "ok"
    assert check_anchors(policy, [ended], 1.0).verdict == "warning"


# data


def solution(
    number: int, *values: float, is_correct: bool = True, steps: tuple[str, ...] = ("one\n", "two")
) -> LabelledSolution:
    labels = tuple(Label(value, 0, 0, 0.0, 0.0, 1.0) for value in values)
    return LabelledSolution(f"p{number}", f"What is {number}?", steps, labels, is_correct)


HEALTHY = [solution(number, 1.0, float(number % 2), is_correct=number % 2 == 1) for number in range(24)]


def data_file(path: Path, solutions: Sequence[LabelledSolution] = HEALTHY) -> str:
    write_labelled(path, solutions)
    return str(path)


@pytest.mark.parametrize("name", formats.names("write"))
def test_a_healthy_file_of_every_format_is_recognised_and_has_no_problem(name: str, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "Anything?"}\n')
    stepped = [replace(each, steps=("Step 1: one\n", "two")) for each in HEALTHY]
    options = {"separator": "\n"} if name == "processbench" else {}
    formats.write(tmp_path / "data.jsonl", name, stepped, **options)
    findings = by_check(examine_data(str(tmp_path / "data.jsonl"), against=[str(tmp_path / "test.jsonl")]))
    assert findings["rows"].text == f"24 {name} rows with 48 steps, each with a label"
    assert list(findings) == ["rows", "steps", "labels", "order", "duplicates", "soft labels", "overlap"]
    assert {finding.verdict for finding in findings.values()} == {"ok"}


def test_rows_that_cannot_be_read_are_named_with_the_reason(tmp_path: Path) -> None:
    row = {"prompt": "1 + 1?", "completions": ["a", "b"], "labels": [True, False]}
    rows = [row, row | {"labels": [True]}, row | {"labels": [True, 7]}, row | {"prompt": None}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    finding = by_check(examine_data(str(tmp_path / "data.jsonl")))["rows"]
    assert finding.verdict == "problem" and "3 of 4 rows are not valid trl rows" in finding.text
    matches = (re.search(r"line \d: .*", detail) for detail in finding.details)
    assert [match[0][:40] for match in matches if match] == [
        "line 2: a solution needs steps and one l",
        "line 3: a label must be a number from 0 ",
        "line 4: column 'prompt' must hold a stri",
    ]
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n{torn\n" + json.dumps(row) + "\n")
    torn = by_check(examine_data(str(tmp_path / "data.jsonl")))["rows"]
    assert (
        torn.verdict == "problem"
        and "reading stops" in torn.text
        and "line 2 is not JSON" in torn.details[-1]
    )


@pytest.mark.parametrize(
    ("solutions", "check", "verdict", "text"),
    [
        (
            [*HEALTHY, solution(99, 1.0, 1.0, steps=("one\n", " \n"))],
            "steps",
            "warning",
            "1 labelled steps have no text",
        ),
        (
            [*HEALTHY, replace(solution(99, 1.0, 1.0), question=" ")],
            "steps",
            "warning",
            "1 solutions have no question",
        ),
        ([solution(number, 1.0, 1.0) for number in range(24)], "labels", "problem", "all 48 labels are 1"),
        (
            [replace(each, is_correct=not each.is_correct) for each in HEALTHY],
            "order",
            "problem",
            "good and bad are swapped",
        ),
        (
            [solution(number, float(number < 5), 1.0) for number in range(24)],
            "order",
            "warning",
            "21% of first steps .* 100% of last ones",
        ),
        (
            [*HEALTHY, HEALTHY[0]],
            "duplicates",
            "warning",
            "1 of 25 solutions repeat an earlier one; 0 of the 1 repeated have different labels",
        ),
        (
            [*HEALTHY, solution(0, 0.0, 0.0, is_correct=False)],
            "duplicates",
            "warning",
            "1 of the 1 repeated have different labels",
        ),
        ([*HEALTHY, solution(99, 0.5, 1.0)], "soft labels", "ok", "only with a threshold"),
    ],
)
def test_data_that_is_off_in_one_way_is_found(
    solutions: list[LabelledSolution], check: str, verdict: str, text: str, tmp_path: Path
) -> None:
    assert_only(by_check(examine_data(data_file(tmp_path / "labels.jsonl", solutions))), check, verdict, text)


def test_soft_labels_in_trl_s_format_are_a_problem(tmp_path: Path) -> None:
    row = {"prompt": "1 + 1?", "completions": ["a", "b"], "labels": [0.9, 0.0]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    assert_only(
        by_check(examine_data(str(tmp_path / "data.jsonl"))), "soft labels", "problem", r"int\(0.9\) = 0"
    )


def test_the_formats_that_hold_hard_labels_only_are_those_that_refuse_soft_ones(tmp_path: Path) -> None:
    for name in formats.names("write"):
        soft, options = solution(1, 0.5, 1.0), {"separator": "\n"} if name == "processbench" else {}
        try:
            formats.write(tmp_path / "data.jsonl", name, [soft], **options)
            is_refused = False
        except ValueError as error:
            assert "threshold" in str(error)
            is_refused = True
        assert is_refused == (name in HARD_ONLY), name


def test_solutions_that_the_prm_cannot_read_are_counted(healthy: Path, tmp_path: Path) -> None:
    file = data_file(tmp_path / "labels.jsonl", [*HEALTHY, solution(99, 1.0, 1.0, steps=("x" * 600, "y"))])
    findings = by_check(examine_data(file, prm=str(healthy)))
    assert_only(
        findings,
        "length",
        "warning",
        r"1 of 25 solutions \(4.0%\) do not fit the PRM, 1 because of their length",
    )
    assert (
        by_check(examine_data(data_file(tmp_path / "labels.jsonl"), prm=str(healthy)))["length"].verdict
        == "ok"
    )
    misfit = our_prm(tmp_path / "misfit", tag="##")
    assert_only(by_check(examine_data(file, prm=str(misfit))), "length", "problem", "cannot read solutions")


LONG = "A farmer has 17 cows and buys 5 more each week for 4 weeks; how many cows has he got then, in all?"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (LONG, ("exactly", 1.0)),
        (LONG.upper().replace(",", " --"), ("exactly", 1.0)),
        ("Please help. " + LONG + " Thank you.", ("nearly", 1.0)),
        (LONG.replace("in all", "all told"), ("nearly", 14 / 16)),
        (LONG.replace("17", "18"), ("nearly", 12 / 16)),
        (LONG.replace("17", "18").replace("weeks", "months"), None),
        ("What is 1 + 1?", None),
    ],
)
def test_a_question_is_found_by_its_words_or_most_of_its_8_word_sequences(
    question: str, expected: tuple[str, float] | None
) -> None:
    found = find_overlaps(
        [("row 0", "Something else"), ("row 1", question)], [Questions("test", {"line 1": LONG})]
    )
    assert [(item.match, item.share, item.row) for item in found] == (
        [(*expected, "row 1")] if expected else []
    )


def test_overlaps_agree_with_brute_force_on_real_questions() -> None:
    file = DATA / "gsm8k" / "test.jsonl"
    if not file.exists():
        pytest.skip(
            f"the GSM8K file is not at {file}; set FORKPOINT_DATA to a directory that holds gsm8k/test.jsonl"
        )
    questions = [json.loads(line)["question"] for line in file.read_text().splitlines()[:60]]
    training = [
        (str(idx), " ".join(question.split()[idx % 7 :])) for idx, question in enumerate(questions[:40])
    ]

    def sequences(text: str) -> set[str]:
        its_words = words(text)
        return {" ".join(its_words[start : start + 8]) for start in range(len(its_words) - 7)}

    expected = set()
    for idx, question in enumerate(questions):
        for _, other in training:
            shared = sequences(question) & sequences(other)
            if words(question) == words(other) or (shared and len(shared) >= 0.7 * len(sequences(question))):
                expected.add(str(idx))
    found = find_overlaps(
        training, [Questions("gsm8k", {str(idx): question for idx, question in enumerate(questions)})]
    )
    assert {item.where for item in found} == expected and 0 < len(expected) < len(questions)
    assert sum(item.match == "exactly" for item in found) == sum(idx % 7 == 0 for idx in range(40))


def test_test_questions_in_the_data_are_a_problem_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    test = [
        {"question": LONG, "answer": "#### 37"},
        {"question": "What is 3?", "answer": "#### 3"},
        {"question": "Else?", "answer": "#### 1"},
    ]
    (tmp_path / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    file = data_file(
        tmp_path / "labels.jsonl", [*HEALTHY, replace(solution(99, 1.0, 1.0), question="Now. " + LONG)]
    )
    findings = by_check(examine_data(file, known_data=tmp_path))
    assert_only(
        findings,
        "overlap",
        "problem",
        r"1 test questions appear in the data exactly, 1 nearly \(2 of 3 of GSM8K",
    )
    assert [re.sub(r"\S*/", "", detail)[:52] for detail in findings["overlap"].details] == [
        "test.jsonl, line 1 appears nearly in labels.jsonl, l",
        "test.jsonl, line 2 appears exactly in labels.jsonl, ",
    ]
    assert_only(by_check(examine_data(file)), "overlap", "warning", "not checked")


def test_processbench_is_found_to_be_made_of_test_questions_of_gsm8k() -> None:
    if not (DATA / "processbench" / "gsm8k.json").exists():
        pytest.skip(
            f"ProcessBench is not at {DATA}; set FORKPOINT_DATA to a directory that holds "
            "processbench/gsm8k.json"
        )
    finding = by_check(examine_data(str(DATA / "processbench" / "gsm8k.json"), known_data=DATA))["overlap"]
    assert (
        "375 of 1319 of GSM8K" in finding.text
        and "of ProcessBench (processbench/gsm8k.json)" not in finding.text
    )


def test_columns_that_tell_no_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="the columns a, b belong to no known format; name it with --format: forkpoint"
    ):
        recognise_format({"a": 1, "b": 2})


# the sandbox


def test_the_level_of_protection_in_force_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(choose.SETTING, raising=False)
    for number, level in enumerate(LEVELS):
        failures = {(other, sys.executable): "" for other in LEVELS}
        failures |= {(other, sys.executable): "it is missing" for other in LEVELS[:number]}
        monkeypatch.setattr(choose, "_failures", failures)
        (finding,) = examine_sandbox()
        assert finding.verdict == ("ok" if level in CONFINED else "warning")
        assert f"the level {level}:" in finding.text
        assert finding.details == tuple(f"{other}: it is missing" for other in LEVELS[:number])
    monkeypatch.setenv(choose.SETTING, "namespaces")
    (finding,) = examine_sandbox()
    assert finding.verdict == "problem" and "demands the level namespaces" in finding.text


def test_a_policy_for_programs_is_examined_with_the_sandbox(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"question": "Write add(a, b).", "answer": "assert add(1, 2) == 3", "grader": "code"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(problem) + "\n")
    problems = f"jsonl:{tmp_path / 'tasks.jsonl'}?grader=code"
    arguments = ("--kind", "policy", "--template", "{question}", "--max-tokens", 4, "--json")
    status_of("doctor", healthy, "--problems", problems, *arguments)
    assert json.loads(capsys.readouterr().out)["findings"][-1]["check"] == "protection"


# the command


def test_kinds_are_told_by_files(healthy: Path, tmp_path: Path) -> None:
    assert kind_of(str(healthy)) == "prm"
    assert kind_of(str(make_public_prm(tmp_path / "EurusPRM-Stage2", "implicit"))) == "prm"
    assert kind_of(str(make_checkpoint(tmp_path / "policy"))) == "policy"
    assert kind_of(str(make_checkpoint(tmp_path / "gpt2", "gpt2"))) == "policy"
    assert kind_of("lab") == "policy"
    assert kind_of("sandbox") == "sandbox"
    assert kind_of(data_file(tmp_path / "labels.jsonl")) == "data"
    assert kind_of(str(tmp_path)) == "data"
    assert kind_of("hub:somebody/something?split=train") == "data"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="do not say whether it is a PRM, a data file or a policy"):
        kind_of(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        kind_of(str(tmp_path / "nowhere"))


def status_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_exit_status_tells_problems_from_bad_input(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("doctor", healthy, "--device", "cpu") == 0
    assert "0 problem" in capsys.readouterr().out
    assert status_of("doctor", our_prm(tmp_path / "broken", tag="##"), "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["num_problems"]) == ("prm", 1)
    assert report["findings"][0].keys() == {"check", "verdict", "text", "details"}
    assert status_of("doctor", tmp_path / "nowhere") == 2
    assert status_of("doctor", healthy, "--family", "erprm") == 2
    assert status_of("doctor", healthy, "--read", "separator") == 2
    (tmp_path / "data.jsonl").write_text('{"a": 1}\n')
    assert status_of("doctor", tmp_path / "data.jsonl") == 2


def test_the_terminal_shows_the_first_cases_and_says_how_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = [solution(90 + number, 1.0, 1.0, steps=("one\n", " \n")) for number in range(SHOWN_DETAILS + 2)]
    assert status_of("doctor", data_file(tmp_path / "labels.jsonl", [*HEALTHY, *empty])) == 0
    shown = capsys.readouterr().out
    assert shown.count(", step 2") == SHOWN_DETAILS and "steps: 2 more; --json shows them all" in shown


def test_the_command_is_light() -> None:
    code = (
        "import sys, forkpoint.cli.doctor; print([name for name in ('torch', 'transformers', "
        "'pyarrow') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


PAGE = ROOT / "docs" / "how-to" / "doctor.md"


def test_the_commands_of_the_page_run_and_end_as_it_says(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/labels").mkdir(parents=True)
    data_file(Path("runs/labels/labels.jsonl"))
    Path("runs/prm").symlink_to(healthy)
    Path("test.jsonl").write_text('{"question": "What is 3?"}\n')
    Path("solutions.jsonl").write_text('{"question": "1 + 1?", "solution": "One and one\\nis 2."}\n')
    commands = re.findall(r"^    forkpoint (doctor .*?)  # (\d)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == PAGE.read_text().count("    forkpoint doctor ") >= 5
    for command, status in commands:
        assert status_of(*(part.strip("'") for part in command.split())) == int(status), command
    assert "Traceback" not in capsys.readouterr().err


def test_every_check_has_a_row_on_the_page(healthy: Path, tmp_path: Path) -> None:
    classifier = our_prm(tmp_path / "prm", head="classifier")
    AutoModelForTokenClassification.from_pretrained(classifier).save_pretrained(classifier)
    sample = Sample("a", "1 + 1?", ("2",))
    run = tmp_path / "run"
    run.mkdir()
    data_file(run / "labels.jsonl")
    (run / "label_config.json").write_text(json.dumps({"labels_digest": labels_digest(run)}))
    checks = {
        *by_check(examine_data(str(run))),
        *by_check(examine_prm(healthy, "cpu", solutions=[sample])),
        *by_check(examine_prm(classifier, "cpu")),
        *by_check(examine_data(data_file(tmp_path / "labels.jsonl"), prm=str(healthy))),
        *by_check(examine_policy(healthy, "cpu", max_tokens=4, questions=["1 + 1?"])),
        *by_check(examine_sandbox()),
    }
    assert set(re.findall(r"^\| `([\w ]+)` \|", PAGE.read_text(), re.MULTILINE)) == checks
