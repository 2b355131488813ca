"""Instructions, system messages and thinking: where they stand in the prompt, and when they are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from checkpoints import CHATML, QWEN_SPECIAL, make_byte_tokenizer, make_model
from forkpoint.checkpoint import fingerprint
from forkpoint.cli.plan import parsed
from forkpoint.doctor.policy import examine_policy
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.policies.config import PolicyConfig
from forkpoint.policies.prompt import BOXED, INSTRUCTIONS, ChatPrompt, prompt_of
from forkpoint.policies.text import Checkpoint, PolicyText

SWITCHED = CHATML.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
"""A template with the switch of Qwen3's."""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def prompt_text(prompt: str | ChatPrompt | None, template: str | None = CHATML) -> str:
    """The prompt of the question `1+1?`, special tokens included."""
    tokenizer = make_byte_tokenizer(QWEN_SPECIAL, template)
    text = PolicyText(tokenizer, frozenset(), prompt)
    return str(tokenizer.decode(list(text.encode_question("1+1?"))))


def chat_policy(path: Path, template: str = CHATML) -> Path:
    tokenizer = make_byte_tokenizer(QWEN_SPECIAL, template)
    make_model(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>")
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


# the prompt


def test_the_instruction_follows_the_question() -> None:
    assert prompt_text(prompt_of(None, "math-boxed", None, None)) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n1+1?\n{BOXED}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_system_message_stands_in_place_of_the_template_s_own() -> None:
    assert prompt_text(prompt_of(None, None, "qwen-math", None)) == (
        f"<|im_start|>system\n{BOXED}<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt_text(prompt_of(None, None, "", None)).startswith("<|im_start|>system\n<|im_end|>\n")


def test_a_text_of_several_words_is_taken_as_it_is() -> None:
    prompt = prompt_of(None, "Think {question} hard.", "Be brief, please.", None)
    text = prompt_text(prompt)
    assert "<|im_start|>user\n1+1?\nThink {question} hard.<|im_end|>" in text
    assert text.startswith("<|im_start|>system\nBe brief, please.<|im_end|>")


def test_thinking_sets_the_switch_of_the_template() -> None:
    plain = prompt_text(None, SWITCHED)
    assert prompt_text(prompt_of(None, None, None, True), SWITCHED) == plain
    assert prompt_text(prompt_of(None, None, None, False), SWITCHED) == plain + "<think>\n\n</think>\n\n"


def test_all_three_go_together() -> None:
    text = prompt_text(prompt_of(None, "gsm8k-hash", "qwen-math", False), SWITCHED)
    assert BOXED in text and INSTRUCTIONS["gsm8k-hash"] in text and text.endswith("</think>\n\n")


def test_the_documented_wording_is_kept() -> None:
    assert BOXED == r"Please reason step by step, and put your final answer within \boxed{}."
    assert "#### N" in INSTRUCTIONS["gsm8k-hash"]


# what is refused


def test_a_template_excludes_the_others() -> None:
    with pytest.raises(ValueError, match="--template is the whole prompt, so it excludes --instruction"):
        prompt_of("Q: {question}", "math-boxed", None, None)
    with pytest.raises(ValueError, match="excludes --instruction, --system and --thinking"):
        PolicyConfig(template="Q: {question}", thinking=False)
    assert prompt_of("Q: {question}", None, None, None) == "Q: {question}"


@pytest.mark.parametrize(
    ("instruction", "system", "message"),
    [
        ("maths-boxed", None, "instruction 'maths-boxed' is unknown; choose from math-boxed, gsm8k-hash"),
        ("qwen-math", None, "choose from math-boxed, gsm8k-hash, or give it as --system"),
        (None, "gsm8k-hash", "choose from qwen-math, math-boxed, or give it as --instruction"),
        (" ", None, "the instruction is empty"),
    ],
)
def test_a_name_that_is_unknown_is_refused(instruction: str | None, system: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_of(None, instruction, system, None)


@pytest.mark.parametrize(
    ("prompt", "template", "message"),
    [
        (
            ChatPrompt(instruction="a b"),
            None,
            "no chat template, so .* write the whole prompt with --template",
        ),
        (ChatPrompt(thinking=False), CHATML, "no switch enable_thinking"),
        (ChatPrompt(system="a b"), NO_SYSTEM, r"refuses the prompt \(no system role\)"),
        (
            ChatPrompt(system="a b"),
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "drops the system message 'a b'",
        ),
    ],
)
def test_a_template_without_a_place_for_it_is_refused(
    prompt: ChatPrompt, template: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_text(prompt, template)


# identity


def test_names_of_policies_without_additions_are_the_old_ones() -> None:
    for template in (None, "Q: {question}"):
        expected = f"policy-{fingerprint(LAB_POLICY, 'torch.float32', repr(template))}"
        assert load_policy("lab", template=template).name == expected
        assert PolicyConfig(template=template).prompt == template
        checkpoint = Checkpoint.load(LAB_POLICY, template=template)
        assert checkpoint.name("x") == f"policy-{fingerprint(LAB_POLICY, 'x', repr(template))}"


def test_additions_are_part_of_the_name_and_names_stand_for_their_texts(tmp_path: Path) -> None:
    path = chat_policy(tmp_path / "chat", SWITCHED)

    def name(instruction: str | None = None, system: str | None = None, thinking: bool | None = None) -> str:
        return (
            PolicyConfig(policy=str(path), instruction=instruction, system=system, thinking=thinking)
            .load()
            .name
        )

    plain = name()
    others = [name("math-boxed"), name("gsm8k-hash"), name(None, "qwen-math"), name(thinking=True)]
    assert len({plain, *others, name(thinking=False)}) == 6
    assert name(BOXED) == name("math-boxed")
    assert name(None, BOXED) == name(None, "math-boxed") == name(None, "qwen-math")


def test_the_text_that_names_a_prompt_has_what_is_given_only() -> None:
    assert repr(ChatPrompt(instruction="a b")) == "ChatPrompt(instruction='a b')"
    assert repr(ChatPrompt(system="", thinking=False)) == "ChatPrompt(system='', thinking=False)"


def test_a_pickled_policy_keeps_its_prompt(tmp_path: Path) -> None:
    policy = load_policy(chat_policy(tmp_path), template=ChatPrompt(system="Be brief, please."))
    again = pickle.loads(pickle.dumps(policy))
    assert again.name == policy.name
    assert again.encode_question("1+1?") == policy.encode_question("1+1?")


# the commands


@pytest.mark.parametrize(
    "command",
    [
        "label P --out o",
        "search P --prm p --out o",
        "evaluate P --prm p --out o",
        "sweep L --problems P --out o",
    ],
)
def test_every_command_with_a_policy_has_the_flags(command: str) -> None:
    flags = ["--instruction", "math-boxed", "--system", "", "--no-thinking"]
    _, arguments = parsed([*command.split(), *flags])
    assert arguments["policy"].prompt == ChatPrompt(BOXED, "", False)


def test_raft_has_the_flags() -> None:
    flags = ["--instruction", "math-boxed", "--system", "qwen-math", "--thinking"]
    _, arguments = parsed(["raft", "P", "--eval-problems", "E", "--out", "o", *flags])
    assert [arguments[name] for name in ("instruction", "system", "thinking")] == [
        "math-boxed",
        "qwen-math",
        True,
    ]


def test_doctor_examines_the_policy_with_its_additions(tmp_path: Path) -> None:
    path = chat_policy(tmp_path / "chat")
    findings = {item.check: item for item in examine_policy(path, "cpu", ChatPrompt("Be brief."), 4)}
    assert findings["template"].verdict == "ok"
    assert "ChatPrompt(instruction='Be brief.')" in findings["template"].text
    plain = {item.check: item for item in examine_policy(path, "cpu", None, 4)}

    def num_added(text: str) -> int:
        return int(text.removeprefix("a prompt takes ").partition(" ")[0])

    num_more = num_added(findings["prompt"].text) - num_added(plain["prompt"].text)
    assert num_more == len("\nBe brief.")
    refused = examine_policy(path, "cpu", ChatPrompt(thinking=True), 4)
    assert [item.verdict for item in refused] == ["problem"]
