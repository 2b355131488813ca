"""Chat templates: a conversation as text, and the tokens at which the assistant begins to speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.errors import LayoutError


def render(tokenizer: Any, *turns: tuple[str, str], **options: bool) -> str:
    """Write turns of (role, content) with the tokenizer's chat template. LayoutError if it has none."""
    if not getattr(tokenizer, "chat_template", None):
        raise LayoutError(
            "this family reads conversations, and the checkpoint's tokenizer has no chat template: "
            "restore it from the card"
        )
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text


def assistant_header(tokenizer: Any) -> list[int]:
    """Return the tokens that the template puts before a text of the assistant."""
    user = ("user", "?")
    header = render(tokenizer, user, add_generation_prompt=True).removeprefix(render(tokenizer, user))
    return list(tokenizer.encode(header, add_special_tokens=False))


def ends_of(part: Sequence[int], whole: Sequence[int]) -> list[int]:
    """Return the index in `whole` of the last token of each occurrence of `part`."""
    part, size = list(part), len(part)
    return [end - 1 for end in range(size, len(whole) + 1) if list(whole[end - size : end]) == part]
