"""The prompt of a policy: a template of its own, or the model's chat template with additions.

Invariant: what is not given changes neither the prompt nor the name of the policy.
This file tokenizes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
INSTRUCTIONS = {
    "math-boxed": BOXED,
    "gsm8k-hash": (
        "Reason step by step, and end your answer with a line of the form #### N, in which N is the final "
        "result as a number without a unit."
    ),
}
"""The named instructions. `math-boxed` is the one that Qwen2.5, Qwen3 and DeepSeek-R1 recommend for
mathematics, at the end of the user's message; `gsm8k-hash` asks for the form of the solutions of GSM8K."""
SYSTEMS = {"qwen-math": BOXED, "math-boxed": BOXED}
"""The named system messages. `qwen-math` is that of Qwen2.5-Math-Instruct."""
PLACES = {"instruction": INSTRUCTIONS, "system": SYSTEMS}
SWITCH = "enable_thinking"
"""The variable of chat templates (Qwen3, SmolLM3) that turns reasoning before the answer on and off."""


@dataclass(frozen=True, repr=False)
class ChatPrompt:
    """Additions to the model's chat template; None leaves the prompt as it is without the addition."""

    instruction: str | None = None
    """A text that follows the question in the user's message, on a line of its own."""
    system: str | None = None
    """The system message, in place of the template's own; it may be empty."""
    thinking: bool | None = None
    """The value of the template's switch `enable_thinking`."""

    def __post_init__(self) -> None:
        if self.instruction is not None and not self.instruction.strip():
            raise ValueError("the instruction is empty; leave it out")

    def __repr__(self) -> str:
        """Name what is given only, so that the text, which names policies, stays if fields are added."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        arguments = (f"{name}={value!r}" for name, value in given.items() if value is not None)
        return f"ChatPrompt({', '.join(arguments)})"

    def check(self, tokenizer: Any) -> None:
        """Raise ValueError unless the tokenizer's chat template has a place for what is given."""
        from jinja2 import TemplateError

        template = getattr(tokenizer, "chat_template", None)
        if not template:
            raise ValueError(
                "the model has no chat template, so an instruction, a system message or thinking has no "
                "place in its prompt; write the whole prompt with --template"
            )
        if self.thinking is not None and SWITCH not in str(template):
            raise ValueError(
                f"the chat template of the model has no switch {SWITCH}; leave --thinking and --no-thinking "
                "out"
            )
        try:
            text = self.text(tokenizer, "Question")
        except TemplateError as error:
            raise ValueError(
                f"the chat template of the model refuses the prompt ({error}); if it takes no system "
                "message, give the text as --instruction"
            ) from None
        for name, given in (("system message", self.system), ("instruction", self.instruction)):
            if given is not None and given.strip() not in text:
                raise ValueError(f"the chat template of the model drops the {name} {given!r}")

    def text(self, tokenizer: Any, question: str) -> str:
        """The prompt up to the place where the model's answer begins."""
        user = question if self.instruction is None else f"{question}\n{self.instruction}"
        messages = [{"role": "user", "content": user}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        switch = {} if self.thinking is None else {SWITCH: self.thinking}
        text: str = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **switch
        )
        return text


Prompt: TypeAlias = "str | ChatPrompt | None"
"""A template with `{question}` in it, additions to the chat template, or None for the default."""


def prompt_of(
    template: str | None, instruction: str | None, system: str | None, thinking: bool | None
) -> Prompt:
    """The prompt of four flags; names of instructions and system messages stand for their texts.

    Raises ValueError if a template is given with anything else, or if a name is unknown.
    """
    if instruction is None and system is None and thinking is None:
        return template
    if template is not None:
        raise ValueError(
            "--template is the whole prompt, so it excludes --instruction, --system and --thinking; "
            "give either it or them"
        )
    return ChatPrompt(
        _named("instruction", instruction, INSTRUCTIONS), _named("system", system, SYSTEMS), thinking
    )


def _named(flag: str, given: str | None, texts: dict[str, str]) -> str | None:
    """The text of a name; other texts of several words, and the empty one, stay as they are."""
    if given is None or given in texts:
        return None if given is None else texts[given]
    if given and len(given.split()) == 1:
        place = next((name for name, known in PLACES.items() if name != flag and given in known), None)
        hint = f", or give it as --{place}" if place else ", or give a text of several words"
        raise ValueError(f"{flag} {given!r} is unknown; choose from {', '.join(texts)}{hint}")
    return given
