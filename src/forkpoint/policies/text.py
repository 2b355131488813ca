"""The text side of a policy: encode questions, decode tokens, and read a checkpoint without its weights.

Invariant: all engines that serve the same checkpoint with the same template encode, decode and end
completions in the same way.
This file runs no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from forkpoint.checkpoint import fingerprint, load_pretrained, load_tokenizer
from forkpoint.policies.gguf_file import model_directory
from forkpoint.policies.prompt import ChatPrompt, Prompt


class PolicyText:
    """A tokenizer with a prompt template and end tokens."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int], template: Prompt = None) -> None:
        """`template` is a prompt with `{question}` in it, or additions to the chat template.

        Raises ValueError if it does not contain that, or if the chat template has no place for them.
        """
        if isinstance(template, ChatPrompt):
            template.check(tokenizer)
        elif template is not None and "{question}" not in template:
            raise ValueError(
                f"template {template!r} has no {{question}} in it, so all prompts would be equal"
            )
        self.eos_ids, self.template = eos_ids, template
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def encode_question(self, question: str) -> tuple[int, ...]:
        """The token ids of the prompt.

        The prompt is the template, else the chat template, else the question and a line break.
        """
        if isinstance(self.template, ChatPrompt):
            text = self.template.text(self._tokenizer, question)
        elif self.template is None and getattr(self._tokenizer, "chat_template", None):
            text = ChatPrompt().text(self._tokenizer, question)
        else:
            text = (self.template or "{question}\n").replace("{question}", question)
        bos = getattr(self._tokenizer, "bos_token", None)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
        while len(ids) > 1 and ids[-1] in self.eos_ids:
            ids.pop()  # some tokenizers put an end token after every text, and nothing would follow it
        return tuple(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids` without end tokens and other special tokens."""
        ids = [token_id for token_id in token_ids if token_id not in self.eos_ids]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; joined, the texts are `decode(token_ids)`.

        Special tokens are empty. A character that is split over several tokens belongs to the one that
        completes it.
        """
        for token_id in set(token_ids) - self._texts.keys():
            self._texts[token_id] = self._token_text(token_id)
        texts, text = [self._texts[token_id] for token_id in token_ids], self.decode(token_ids)
        joined = "".join(texts)
        if joined == " " + text:  # SentencePiece drops the first space
            first = next(idx for idx, token_text in enumerate(texts) if token_text)
            texts[first] = texts[first][1:]
            joined = text
        if joined == text and "\ufffd" not in text:
            return texts
        return self._texts_by_prefixes(token_ids, text)

    def _token_text(self, token_id: int) -> str:
        """The text of one token in the middle of others, as far as it is known without them."""
        text = self.decode([token_id])
        token: str = self._tokenizer.convert_ids_to_tokens(token_id)
        return token.replace("▁", " ") if text and token.startswith("▁") else text

    def _texts_by_prefixes(self, token_ids: Sequence[int], text: str) -> list[str]:
        """The text that each token adds to that of the tokens before it.

        Incomplete characters are held back until a later token completes them. This is always right, but
        takes quadratic time.
        """
        texts, num_given = [], 0
        for end in range(1, len(token_ids) + 1):
            complete = self.decode(token_ids[:end]).rstrip("\ufffd")
            num_known = len(complete) if text.startswith(complete) else num_given
            texts.append(text[num_given : max(num_given, num_known)])
            num_given = max(num_given, num_known)
        last = max((idx for idx, token_id in enumerate(token_ids) if self.decode([token_id])), default=-1)
        if num_given < len(text):
            texts[last] += text[num_given:]
        return texts


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The description of a model, from its directory or the hub; its weights are not read."""

    path_or_id: str | Path
    directory: Path
    """The directory of the configuration; for a model on the hub, a directory of the cache."""
    text: PolicyText
    vocab_size: int
    """The number of entries of a next-token distribution; the tokenizer may know fewer tokens."""
    max_length: int | None
    """The number of positions of the model; None if the configuration names no limit."""
    num_parameters: int | None
    """The number of weights; None for an architecture that transformers does not know."""

    @classmethod
    def load(cls, path_or_id: str | Path, *, template: Prompt = None) -> Checkpoint:
        """Read the checkpoint in a directory or a GGUF file, or of that name on the hub.

        Raises FileNotFoundError if it is missing.
        """
        path_or_id = model_directory(path_or_id)
        with missing_refused(path_or_id):
            config = load_pretrained(AutoConfig, path_or_id)
            tokenizer = load_tokenizer(path_or_id)
            config_path = cached_file(path_or_id, "config.json")
        assert config_path is not None, "cached_file raises if there is no file"
        text_config = config.get_text_config()
        return cls(
            path_or_id=path_or_id,
            directory=Path(config_path).parent,
            text=PolicyText(
                tokenizer, eos_ids(_generation_config(path_or_id, config), text_config, tokenizer), template
            ),
            vocab_size=text_config.vocab_size,
            max_length=getattr(text_config, "max_position_embeddings", None),
            num_parameters=_num_parameters(config),
        )

    def name(self, *settings: str) -> str:
        """The last part of `path_or_id`, and a hash of the files, the template and `settings`.

        `settings` are whatever else changes the numbers that the policy returns.
        The weights of a model on the hub count only if they have been downloaded.
        """
        digest = fingerprint(self.directory, *settings, repr(self.text.template))
        return f"{Path(self.path_or_id).resolve().name}-{digest}"


@contextmanager
def missing_refused(path_or_id: str | Path) -> Iterator[None]:
    """The context for reading a checkpoint: if it is missing, FileNotFoundError says what was looked for."""
    if Path(path_or_id).is_dir() and not (Path(path_or_id) / "config.json").exists():
        raise FileNotFoundError(f"'{path_or_id}' holds no model: there is no config.json in it")
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"'{path_or_id}' is neither a directory with a model nor a model on the hub: {error}"
        ) from error


def eos_ids(*sources: Any) -> frozenset[int]:
    """The end tokens of the first source that names some.

    Sources are the generation configuration, the configuration of the model, and the tokenizer.
    """
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def _generation_config(path_or_id: str | Path, config: Any) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(path_or_id)
    except OSError:  # the file is optional
        return GenerationConfig.from_model_config(config)


def _num_parameters(config: Any) -> int | None:
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
            return model.num_parameters()
    except ValueError:
        return None
