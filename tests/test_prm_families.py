"""Public PRM families: the published rule, one pass per step, against one pass for all; and refusals."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
    Qwen2Model,
)

from checkpoints import make_checkpoint, make_public_prm, make_tokenizer
from forkpoint.cli import main
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.prms import load_prm
from forkpoint.prms.config import FamilyConfig
from forkpoint.prms.export import save_as_qwen
from forkpoint.prms.families import FAMILIES, OURS, PUBLISHED, family_class, recognise
from forkpoint.prms.family import FamilyPRM
from forkpoint.prms.layout import Head, PRMFormat
from forkpoint.prms.longest_token import longest_token
from forkpoint.prms.tagged import TaggedPRM
from forkpoint.select import aggregate

NAMES = {family: name for name, family in PUBLISHED.items()}
"""A published name of every family that has one."""


def solutions(num: int) -> tuple[list[str], list[list[str]]]:
    rng = random.Random(0)
    words = ["12 + 7 = 19", "so x = -3.", "Step 2: twice\nthat.", "y", "The answer is: 3"]
    steps = [[f"Step {idx}: {rng.choice(words)}" for idx in range(1, rng.randint(2, 6))] for _ in range(num)]
    return [f"What is {idx} + {idx}?" for idx in range(num)], steps


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint per family, and `reference`, the implicit one's."""
    root = tmp_path_factory.mktemp("prms")
    made = {family: make_public_prm(root / NAMES.get(family, family), family) for family in FAMILIES}
    return made | {"reference": make_public_prm(root / "reference", "implicit", seed=1)}


def load(checkpoints: dict[str, Path], family: str) -> FamilyPRM:
    options: dict[str, Any] = (
        {"reference": checkpoints["reference"], "beta": 0.05} if family == "implicit" else {}
    )
    prm = load_prm(checkpoints[family], "cpu", **options)
    assert isinstance(prm, FamilyPRM)
    assert prm.family.name == family
    return prm


def tokenizer_of(path: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(path)


@lru_cache
def model_of(path: Path, model_class: Any) -> Any:
    return model_class.from_pretrained(path)


@torch.no_grad()
def logits_of(path: Path, ids: list[int], model_class: Any = AutoModelForCausalLM) -> torch.Tensor:
    logits: torch.Tensor = model_of(path, model_class)(torch.tensor([ids])).logits[0]
    return logits


@torch.no_grad()
def hidden_of(path: Path, ids: list[int]) -> torch.Tensor:
    hidden: torch.Tensor = model_of(path, Qwen2Model)(torch.tensor([ids])).last_hidden_state[0]
    return hidden


def math_shepherd_rule(path: Path, question: str, steps: list[str]) -> float:
    tokenizer = tokenizer_of(path)
    candidates = tokenizer.encode("+ -")[1:]
    ids = tokenizer.encode(f"{question} " + "\n".join(f"{step} ки" for step in steps))
    assert len(candidates) == 2
    assert ids[-1] == tokenizer.encode("ки")[-1]
    return float(logits_of(path, ids)[-1, candidates].softmax(-1)[0])


def er_prm_rule(path: Path, question: str, steps: list[str]) -> float:
    tokenizer = tokenizer_of(path)
    text = f"{question} " + "".join(f"{step} ки\n" for step in steps)
    ids = tokenizer.encode(text.replace(" ки\n", " ки"))
    assert ids[-1] == tokenizer.encode(" ки")[-1]
    return float(
        logits_of(path, ids)[-1, [tokenizer.encode(" +")[-1], tokenizer.encode(" -")[-1]]].softmax(-1)[0]
    )


def rlhflow_rule(path: Path, question: str, steps: list[str]) -> float:
    tokenizer = tokenizer_of(path)
    conversation = []
    for idx, step in enumerate(steps):
        conversation.append({"role": "user", "content": step if idx else f"{question} {step}"})
        conversation.append({"role": "assistant", "content": "+"})
    ids = tokenizer.apply_chat_template(conversation, return_dict=False)
    return float(
        logits_of(path, ids)[-3, [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]].softmax(-1)[0]
    )


def qwen_rule(path: Path, question: str, steps: list[str]) -> float:
    tokenizer, weights = tokenizer_of(path), load_file(path / "model.safetensors")
    messages = [
        {
            "role": "system",
            "content": "Please reason step by step, and put your final answer within \\boxed{}.",
        },
        {"role": "user", "content": question},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = tokenizer.encode(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    )
    hidden = hidden_of(path, ids)
    inner = nn.functional.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
    probabilities = (inner @ weights["score.2.weight"].T + weights["score.2.bias"]).softmax(-1)
    mask = torch.tensor(ids) == tokenizer.encode("<extra_0>")[0]
    return float(probabilities[mask][-1, 1])


def skywork_rule(path: Path, question: str, steps: list[str]) -> float:
    tokenizer, weights = tokenizer_of(path), load_file(path / "model.safetensors")
    newline = tokenizer.encode("\n")[-1]
    ids = tokenizer.encode(tokenizer.bos_token + question + "\n")
    for line in "\n".join(steps).split("\n"):
        ids += [*tokenizer.encode(line), newline]
    hidden = hidden_of(path, ids)
    return float(
        (hidden @ weights["v_head.summary.weight"].T + weights["v_head.summary.bias"]).sigmoid()[-1, 0]
    )


def trl_rule(path: Path, question: str, steps: list[str], separator: str = "\n") -> float:
    tokenizer = tokenizer_of(path)
    ids = tokenizer(question, add_special_tokens=False)["input_ids"]
    for step in steps:
        ids = (
            ids
            + tokenizer(step, add_special_tokens=False)["input_ids"]
            + tokenizer.encode(separator, add_special_tokens=False)
        )
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    return float(logits_of(path, ids, AutoModelForTokenClassification)[-1].softmax(-1)[1])


def pure_rule(path: Path, question: str, steps: list[str]) -> float:
    return trl_rule(path, question, steps, "\n\n")


RULES: dict[str, Callable[[Path, str, list[str]], float]] = {
    "math-shepherd": math_shepherd_rule,
    "er-prm": er_prm_rule,
    "rlhflow": rlhflow_rule,
    "qwen": qwen_rule,
    "skywork": skywork_rule,
    "trl": trl_rule,
    "pure": pure_rule,
}


@pytest.mark.parametrize("family", RULES)
def test_scores_equal_the_published_rule_with_one_forward_pass_per_step(
    checkpoints: dict[str, Path], family: str
) -> None:
    questions, steps = solutions(4)
    scores = load(checkpoints, family).score(questions, steps)
    for question, its_steps, its_scores in zip(questions, steps, scores, strict=True):
        expected = [
            RULES[family](checkpoints[family], question, its_steps[:num])
            for num in range(1, len(its_steps) + 1)
        ]
        assert its_scores == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for its_scores in scores for score in its_scores}) > 5


@torch.no_grad()
def test_implicit_scores_equal_the_card_s_cumulative_log_ratios(checkpoints: dict[str, Path]) -> None:
    tokenizer = tokenizer_of(checkpoints["implicit"])
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(checkpoints[name]) for name in ("implicit", "reference")
    )
    questions, steps = solutions(4)
    for question, its_steps, scores in zip(
        questions, steps, load(checkpoints, "implicit").score(questions, steps), strict=True
    ):

        def conversation(num_steps: int, question: str = question, its_steps: list[str] = its_steps) -> str:
            answer = "\n\n".join(its_steps[:num_steps])
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            return str(tokenizer.apply_chat_template(messages, tokenize=False))

        lasts = []
        for num_steps in range(len(its_steps) + 1):
            text = conversation(num_steps).strip()
            if num_steps not in (0, len(its_steps)):
                text += "\n\n"
            lasts.append(len(tokenizer.encode(text)) - 2)
        ids_1_T = torch.tensor([tokenizer.encode(conversation(len(its_steps)))])
        logps = [
            model(ids_1_T).logits[:, :-1].log_softmax(-1).gather(2, ids_1_T[:, 1:, None]).squeeze(2)
            for model in (policy, reference)
        ]
        mask = torch.tensor([[0] * lasts[0] + [1] * (ids_1_T.shape[1] - lasts[0])])[:, 1:]
        rewards = (0.05 * (logps[0] - logps[1]) * mask).cumsum(-1).gather(-1, torch.tensor([lasts[1:]]))
        assert scores == pytest.approx(rewards.sigmoid()[0].tolist(), abs=1e-5)
        assert max(abs(score - 0.5) for score in scores) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_do_not_depend_on_batching_or_order(checkpoints: dict[str, Path], family: str) -> None:
    questions, steps = solutions(12)
    prm = load(checkpoints, family)
    together = prm.score(questions, steps)
    alone = [
        FamilyPRM(prm.model, prm.family, "alone", 1).score([q], [s])[0]
        for q, s in zip(questions, steps, strict=True)
    ]
    backwards = prm.score(questions[::-1], steps[::-1])[::-1]
    for left, middle, right in zip(together, alone, backwards, strict=True):
        assert left == pytest.approx(middle, abs=1e-5)
        assert left == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_white_space_around_steps_makes_no_difference(checkpoints: dict[str, Path], family: str) -> None:
    family_of = load(checkpoints, family).family
    assert family_of.encode("1 + 1?", ["Step 1: 2\n", " Step 2: 3\n\n"]) == family_of.encode(
        "1 + 1?", ["Step 1: 2", "Step 2: 3"]
    )


def test_white_space_that_a_chat_template_drops_does_not_count_as_length(
    checkpoints: dict[str, Path],
) -> None:
    family_of = load(checkpoints, "rlhflow").family
    longest = longest_token(family_of.tokenizer)
    assert longest is not None
    spaces = " " * (family_of.max_length * longest + 1)
    assert family_of.encode(f"{spaces}1 + 1?", ["2"]) == family_of.encode("1 + 1?", ["2"])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit_the_model_is_refused_never_cut(checkpoints: dict[str, Path], family: str) -> None:
    prm = load(checkpoints, family)
    fits = "x" * 600
    assert len(prm.score([fits], [["Step 1: 1", "Step 2: 2"]])[0]) == 2
    with pytest.raises(TooLongError, match=r"takes \d+ tokens in the .* layout, and the model reads 1024"):
        prm.score(["1 + 1?", fits], [["Step 1: 1"], ["Step 1: " + fits]])
    with pytest.raises(LayoutError, match="without steps"):
        prm.score(["1 + 1?"], [[]])


@pytest.mark.parametrize(
    ("family", "token"),
    [
        ("math-shepherd", "ки"),
        ("er-prm", "ки"),
        ("qwen", "<extra_0>"),
        ("rlhflow", "<|eot_id|>"),
        ("implicit", "<|im_end|>"),
        ("skywork", "<|im_start|>"),
        ("trl", "</s>"),
        ("pure", "<|endoftext|>"),
    ],
)
def test_a_tag_or_special_token_inside_a_text_is_refused(
    checkpoints: dict[str, Path], family: str, token: str
) -> None:
    prm = load(checkpoints, family)
    with pytest.raises(LayoutError, match=rf"step 2 contains ' ?{token}'".replace("|", r"\|")):
        prm.score(["1 + 1?"], [["Step 1: 2", f"Step 2: {token} 3"]])
    with pytest.raises(LayoutError, match="the question contains"):
        prm.score([f"{token} 1 + 1?"], [["Step 1: 2"]])


def test_a_text_that_runs_into_a_tag_is_refused(checkpoints: dict[str, Path]) -> None:
    prm = load(checkpoints, "er-prm")
    assert len(prm.score(["1 + 1?"], [["Step 1: 2", "Thus 2"]])[0]) == 2
    with pytest.raises(LayoutError, match="gives 1 places for 2 steps"):
        prm.score(["1 + 1?"], [["Step 1: 2", "Zero plus 2"]])  # the tokenizer has a token for the tag and a Z


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("math-shepherd", "'ки' of the math-shepherd family is .* must be one token"),
        ("er-prm", "' ки' of the er-prm family is .* must be one token"),
        ("qwen", "'<extra_0>' of the qwen family is .* must be one token"),
        ("rlhflow", "no chat template"),
        ("implicit", "no chat template"),
    ],
)
def test_a_tokenizer_without_what_the_family_needs_is_refused(family: str, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        family_class(family)(make_tokenizer(), 64)


def test_every_family_is_recognised(checkpoints: dict[str, Path]) -> None:
    for family in FAMILIES:
        assert recognise(checkpoints[family], checkpoints[family].name) == family


def test_every_family_is_in_the_docs_with_its_aggregate_and_in_the_help() -> None:
    document = Path(__file__).parents[1] / "docs" / "reference" / "prms" / "README.md"
    rows = re.findall(
        r"^\| \[`([\w-]+)`\].*\| `(\w+)` \|$", document.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(rows) == sorted((family, family_class(family).aggregate) for family in FAMILIES)
    listed = ", ".join((OURS, *FAMILIES))
    for text in (inspect.getsource(FamilyConfig), str(inspect.getdoc(load_prm))):
        assert listed in re.sub(r"\s+", " ", text)


def test_a_skywork_checkpoint_is_recognised_by_its_head(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    make_public_prm(tmp_path, "skywork")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2ForCausalLM"]}))
    assert recognise(tmp_path) == "skywork"


def test_a_language_model_is_not_taken_for_a_prm_unless_it_is_named(tmp_path: Path) -> None:
    path = make_public_prm(tmp_path / "mine", "er-prm")
    with pytest.raises(
        LayoutError,
        match=r"does not tell .*a LlamaForCausalLM, whose tokens would do for er-prm, rlhflow, implicit",
    ):
        load_prm(path, "cpu")
    assert load_prm(path, "cpu", "er-prm").score(["1 + 1?"], [["2"]]) != load_prm(
        path, "cpu", "rlhflow"
    ).score(["1 + 1?"], [["2"]])
    with pytest.raises(ValueError, match=r"family 'erprm' is unknown; choose from forkpoint, math-shepherd"):
        load_prm(path, "cpu", "erprm")


@pytest.mark.parametrize(
    ("checkpoint", "family", "message"),
    [
        ("er-prm", "qwen", "no PRM of the qwen family: it lacks"),
        ("qwen", "skywork", r"it lacks v_head.* and also holds score\.0"),
        ("skywork", "math-shepherd", "also holds v_head"),
        ("implicit", "trl", "lacks score"),
        ("trl", "math-shepherd", "lacks lm_head.weight and also holds score"),
    ],
)
def test_the_wrong_family_is_refused(
    checkpoints: dict[str, Path], checkpoint: str, family: str, message: str
) -> None:
    with pytest.raises(LayoutError, match=message):
        load_prm(checkpoints[checkpoint], "cpu", family)


def test_classes_in_another_order_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    make_public_prm(tmp_path, "trl")
    config = json.loads((tmp_path / "config.json").read_text())
    for labels in ({"0": "correct", "1": "incorrect"}, {"0": "bad", "1": "neutral", "2": "good"}):
        weights = load_file(tmp_path / "model.safetensors")
        weights["score.weight"], weights["score.bias"] = (
            torch.zeros(len(labels), 32),
            torch.zeros(len(labels)),
        )
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}})
        )
        with pytest.raises(LayoutError, match="has two, of which 1 is good"):
            load_prm(tmp_path, "cpu")


def test_the_separator_of_a_trl_model_can_be_named(checkpoints: dict[str, Path]) -> None:
    prm = load_prm(checkpoints["trl"], "cpu", separator="\n\n")
    assert prm.score(["1 + 1?"], [["2"]])[0] == pytest.approx(
        [pure_rule(checkpoints["trl"], "1 + 1?", ["2"])], abs=1e-5
    )
    assert prm.name != load(checkpoints, "trl").name


def test_a_reference_of_another_vocabulary_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(LayoutError, match=r"cannot be the reference: \d+ tokens"):
        load_prm(checkpoints["implicit"], "cpu", reference=checkpoints["math-shepherd"])


def test_a_checkpoint_that_is_nowhere_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no PRM directory nobody/nothing"):
        load_prm("nobody/nothing", "cpu")


@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_a_prm_of_ours_saved_as_qwen_gives_the_same_scores(tmp_path: Path, head: Head) -> None:
    make_checkpoint(tmp_path / "ours")
    if head == "classifier":
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "ours", num_labels=2)
        nn.init.normal_(model.score.bias)
        model.save_pretrained(tmp_path / "ours")
    PRMFormat(tag="#", head=head, segmentation="solution").save(tmp_path / "ours")
    ours = load_prm(tmp_path / "ours", "cpu")
    assert isinstance(ours, TaggedPRM)
    save_as_qwen(ours, tmp_path / "qwen")
    assert json.loads((tmp_path / "qwen" / "config.json").read_text())["architectures"] == [
        "Qwen2ForProcessRewardModel"
    ]
    again = load_prm(tmp_path / "qwen", "cpu")
    assert again.format == replace(ours.format, head="classifier")
    questions, steps = solutions(4)
    for left, right in zip(ours.score(questions, steps), again.score(questions, steps), strict=True):
        assert left == pytest.approx(right, abs=1e-6)
    with pytest.raises(FileExistsError, match="not empty"):
        save_as_qwen(ours, tmp_path / "qwen")


def test_only_a_qwen2_can_be_saved_as_qwen(tmp_path: Path) -> None:
    PRMFormat(tag="#").save(make_checkpoint(tmp_path / "ours", "llama"))
    ours = load_prm(tmp_path / "ours", "cpu")
    assert isinstance(ours, TaggedPRM)
    with pytest.raises(ValueError, match="a llama cannot be written in the layout"):
        save_as_qwen(ours, tmp_path / "qwen")


def test_a_tag_that_occurs_in_texts_is_not_exported(tmp_path: Path) -> None:
    PRMFormat(tag="\n", replaces_line_end=True).save(make_checkpoint(tmp_path / "ours"))
    ours = load_prm(tmp_path / "ours", "cpu")
    assert isinstance(ours, TaggedPRM)
    with pytest.raises(ValueError, match="vLLM scores every token that equals it"):
        save_as_qwen(ours, tmp_path / "qwen")
    assert not (tmp_path / "qwen").exists()


PAGES = Path(__file__).parents[1] / "docs" / "reference" / "prms"
COMMANDS = {
    "peiyi9979/math-shepherd-mistral-7b-prm": "math-shepherd",
    "HanningZhang/Llama3.1-Math-PRM": "er-prm",
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data": "rlhflow",
    "Qwen/Qwen2.5-Math-PRM-7B": "qwen",
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B": "skywork",
    "PRIME-RL/EurusPRM-Stage2": "implicit",
    "plaguss/Mistral-7B-v0.1-Math-Shepherd-PRM-0.1": "trl",
    "jinachris/PURE-PRM-7B": "pure",
}
"""The checkpoints in the commands of the pages, and their families."""


def commands_in(page: Path) -> list[list[str]]:
    return [line.split()[1:] for line in page.read_text().splitlines() if line.startswith("    forkpoint ")]


def test_every_family_has_a_page_with_a_command_and_its_numbers() -> None:
    assert sorted(command[1] for page in PAGES.glob("*.md") for command in commands_in(page)) == sorted(
        COMMANDS
    )
    for model, name in COMMANDS.items():
        (page,) = (
            page.read_text()
            for page in PAGES.glob("*.md")
            if any(model in command for command in commands_in(page))
        )
        assert f"| default aggregate | `{family_class(name).aggregate}` |" in page
        assert f"| threshold | {family_class(name).threshold} |" in page
        assert re.search(
            rf"\[`{name}`\]\([\w.#-]+\).*`{family_class(name).aggregate}` \|",
            (PAGES / "README.md").read_text(),
        )


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_commands_of_the_pages_run(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where a directory has the name of the checkpoint on the hub
    for model, family in [*COMMANDS.items(), ("Qwen/Qwen2.5-Math-7B-Instruct", "reference")]:
        (tmp_path / model).parent.mkdir(exist_ok=True)
        (tmp_path / model).symlink_to(checkpoints[family])
    (lines,) = re.findall(r"```json\n(.*?)```", (PAGES / "README.md").read_text(), re.DOTALL)
    Path("solutions.jsonl").write_text(lines)
    for command in (command for page in PAGES.glob("*.md") for command in commands_in(page)):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--device", "cpu"])
        assert ended.value.code == 0, capsys.readouterr().err
        rows = [json.loads(line) for line in Path("scored.jsonl").read_text().splitlines()]
        assert [len(row["step_scores"]) for row in rows] == [2, 3]
        how = family_class(COMMANDS[command[1]]).aggregate
        assert all(row["score"] == aggregate(row["step_scores"], how) for row in rows)
