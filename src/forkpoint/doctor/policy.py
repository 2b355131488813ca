"""Examine a policy: does the question reach it, do completions end, are its numbers sound, does it fork?

Invariant: a policy that cannot be loaded is a finding, not an exception; a path that does not exist raises
FileNotFoundError. Policies are run locally with transformers; servers are not examined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from forkpoint.checkpoint import load_pretrained, load_tokenizer, turn_end
from forkpoint.doctor.finding import Finding, ok, problem, warning
from forkpoint.doctor.samples import QUESTIONS, TEXTS
from forkpoint.doctor.vocabulary import check_vocabulary, num_embeddings
from forkpoint.policies import checkpoint_of, load_policy
from forkpoint.policies.context import room_after
from forkpoint.policies.prompt import ChatPrompt, Prompt
from forkpoint.records import Completion, Policy, Request
from forkpoint.steps import AnchorRule

MARK = "forkpoint"
"""A question that no template contains by itself.

Its letters are in the vocabulary of every text tokenizer.
"""


def examine_policy(
    path_or_id: str | Path,
    device: str = "auto",
    template: Prompt = None,
    max_tokens: int = 512,
    tau: float = 1.0,
    questions: Sequence[str] = (),
) -> list[Finding]:
    """Return the findings on a policy.

    It completes `questions` greedily, or a few built-in ones if there are none. `max_tokens` and `tau` are
    those that trees will be grown with. Anchors are counted only on `questions`.
    """
    return list(_examine(path_or_id, device, template, max_tokens, tau, questions))


def _examine(
    path_or_id: str | Path,
    device: str,
    template: Prompt,
    max_tokens: int,
    tau: float,
    questions: Sequence[str],
) -> Iterator[Finding]:
    if isinstance(template, str) and "{question}" not in template:
        yield problem(
            "template",
            f"the template {template!r} does not contain {{question}}, so all prompts would be equal: add it",
        )
        return
    try:
        policy = load_policy(path_or_id, device=device, template=template)
        missing = _missing_weights(checkpoint_of(path_or_id))
    except (ValueError, RuntimeError) as error:
        yield problem("weights", f"the model cannot be loaded as a policy: {error}")
        return
    if missing:
        text = (
            f"{len(missing)} weights are not in the checkpoint and would be random: "
            "save the model again, whole"
        )
        yield problem("weights", text, missing)
        return
    yield ok("weights", f"{policy.num_parameters:,} parameters, all of them in the checkpoint")
    tokenizer: Any = load_tokenizer(checkpoint_of(path_or_id))
    yield check_vocabulary(len(tokenizer), num_embeddings(policy.model))
    yield check_template(policy, tokenizer, template)
    yield check_end_tokens(policy, tokenizer, num_embeddings(policy.model), template)
    yield check_prompt(policy, tokenizer, template)
    yield check_round_trip(policy, tokenizer)
    asked = questions or QUESTIONS
    fits, prompts = check_length(policy, asked, max_tokens)
    yield fits
    if fits.verdict == "problem":
        return
    room = room_after(policy, max(prompts, key=len), max_tokens)
    completions = policy.generate([Request(prompt, max_tokens=room) for prompt in prompts])
    yield check_completions(completions, room)
    yield check_entropies(completions, num_embeddings(policy.model))
    if questions:
        yield check_anchors(policy, completions, tau)


def _missing_weights(path_or_id: str | Path) -> list[str]:
    loaded: Any = load_pretrained(AutoModelForCausalLM, path_or_id, output_loading_info=True)
    _, found = loaded
    return sorted(found["missing_keys"])


def check_template(policy: Policy, tokenizer: Any, template: Prompt) -> Finding:
    """Check that the question reaches the model, and report by which template."""
    if MARK not in policy.decode(policy.encode_question(MARK)):
        return problem(
            "template",
            "the question is not in the prompt: "
            "the chat template drops the user's message, so give --template",
        )
    if isinstance(template, str):
        return ok("template", "prompts are made with the template that was given")
    if template is not None:
        return ok("template", f"prompts are made with the tokenizer's chat template and {template}")
    if getattr(tokenizer, "chat_template", None):
        return ok("template", "prompts are made with the tokenizer's chat template")
    return warning(
        "template",
        "there is no chat template, so a prompt is the question and a line break: "
        "give --template unless the model was trained that way",
    )


def check_end_tokens(policy: Policy, tokenizer: Any, num_rows: int, template: Prompt) -> Finding:
    """Check that completions can end, and that they end with the chat template's token for it."""
    if not policy.eos_ids:
        return problem(
            "end tokens",
            "there is no end token, so completions run to the limit: "
            "set eos_token_id in generation_config.json",
        )
    unknown = sorted(
        token_id
        for token_id in policy.eos_ids
        if token_id >= num_rows or tokenizer.convert_ids_to_tokens(token_id) is None
    )
    if unknown:
        return problem(
            "end tokens",
            f"the end tokens {unknown} are not tokens of this model: "
            "correct eos_token_id in generation_config.json",
        )
    names = ", ".join(
        f"{tokenizer.convert_ids_to_tokens(token_id)!r} ({token_id})" for token_id in sorted(policy.eos_ids)
    )
    end_id = None if isinstance(template, str) else turn_end(tokenizer)
    if end_id is not None and end_id not in policy.eos_ids:
        return problem(
            "end tokens",
            f"the chat template ends an answer with {tokenizer.convert_ids_to_tokens(end_id)!r} "
            f"({end_id}), which is not an end token ({names}): "
            "add it to eos_token_id in generation_config.json",
        )
    return ok("end tokens", f"completions end with {names}")


def check_prompt(policy: Policy, tokenizer: Any, template: Prompt) -> Finding:
    """Check that a completion can follow the prompt, and that the prompt has a single start token."""
    ids, bos = policy.encode_question(MARK), tokenizer.bos_token_id
    if bos is not None and list(ids[:2]) == [bos, bos]:
        return problem(
            "prompt", f"the prompt begins with {tokenizer.bos_token!r} twice: remove it from the template"
        )
    if isinstance(template, str):
        text = template.replace("{question}", MARK)
    elif getattr(tokenizer, "chat_template", None):
        text = (template or ChatPrompt()).text(tokenizer, MARK)
    else:
        text = MARK
    last = tokenizer.encode(text)[-1]
    if last in policy.eos_ids:
        return warning(
            "prompt",
            "template or tokenizer end a prompt with the end token "
            f"{tokenizer.convert_ids_to_tokens(last)!r}; "
            "forkpoint drops it so that a completion can follow: remove it from the template",
        )
    num_added = len(ids) - len(tokenizer.encode(MARK, add_special_tokens=False))
    return ok("prompt", f"a prompt takes {num_added} tokens besides the question")


def check_round_trip(policy: Policy, tokenizer: Any) -> Finding:
    """Check that texts can be decoded from their tokens, as a whole and token by token."""
    broken, lost = [], []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        decoded = policy.decode(ids)
        if "".join(policy.token_texts(ids)) != decoded:
            broken.append(f"{text!r}: {policy.token_texts(ids)}")
        elif decoded.strip() != text.strip():
            lost.append(f"{text!r} comes back as {decoded!r}")
    if broken:
        return problem(
            "round trip",
            f"in {len(broken)} of {len(TEXTS)} texts the tokens do not add up to the text, "
            "so steps would be cut wrongly",
            broken,
        )
    if lost:
        return warning(
            "round trip",
            f"{len(lost)} of {len(TEXTS)} texts do not come back from their tokens: "
            "the model cannot see such characters",
            lost,
        )
    return ok(
        "round trip", f"all {len(TEXTS)} texts come back from their tokens, and the tokens add up to the text"
    )


def check_length(
    policy: Policy, questions: Sequence[str], max_tokens: int
) -> tuple[Finding, list[tuple[int, ...]]]:
    """Check that the prompts and `max_tokens` more tokens fit; returns the finding and the prompts."""
    prompts = [policy.encode_question(question) for question in questions]
    longest = max(map(len, prompts))
    if policy.max_length is None:
        return warning(
            "max_length",
            "the model states no limit of positions: keep prompts and completions within its training length",
        ), prompts
    if longest >= policy.max_length:
        return problem(
            "max_length",
            f"a prompt takes {longest} tokens, and the model reads {policy.max_length}: "
            "leave such questions out",
        ), prompts
    if longest + max_tokens > policy.max_length:
        num_left = policy.max_length - longest
        text = (
            f"a prompt of {longest} tokens leaves {num_left} of {policy.max_length}, "
            f"less than max_tokens {max_tokens}"
        )
        return warning(
            "max_length", f"{text}: completions would be cut, so lower max_tokens or shorten the prompt"
        ), prompts
    return ok(
        "max_length", f"prompts of up to {longest} tokens plus {max_tokens} more fit into {policy.max_length}"
    ), prompts


def check_completions(completions: Sequence[Completion], max_tokens: int) -> Finding:
    """Check that greedy completions end."""
    num_ended = sum(completion.finish == "stop" for completion in completions)
    text = f"{num_ended} of {len(completions)} greedy completions end within {max_tokens} tokens"
    if num_ended < len(completions):
        return warning("greedy", f"{text}: raise max_tokens, or check the template and the end tokens")
    return ok("greedy", text)


def check_entropies(completions: Sequence[Completion], vocab_size: int) -> Finding:
    """Check that entropies and log-probabilities are possible for a distribution over the vocabulary."""
    highest = math.log(vocab_size) + 1e-3
    entropies = [entropy for completion in completions for entropy in completion.entropies]
    logprobs = [logprob for completion in completions for logprob in completion.logprobs]
    num_bad = sum(not -1e-3 <= entropy <= highest for entropy in entropies) + sum(
        not -math.inf < logprob <= 1e-3 for logprob in logprobs
    )
    if num_bad:
        return problem(
            "entropies",
            f"{num_bad} of {2 * len(entropies)} entropies and log-probabilities have impossible values: "
            "load the model in float32",
        )
    mean = math.fsum(entropies) / max(1, len(entropies))
    most = f"ln {vocab_size} = {math.log(vocab_size):.2f} nats"
    return ok("entropies", f"{len(entropies)} entropies lie between 0 and {most}, {mean:.2f} on average")


def check_anchors(policy: Policy, completions: Sequence[Completion], tau: float) -> Finding:
    """Report how many places to fork greedy solutions have."""
    rule = AnchorRule(tau=tau)
    counts = [
        len(rule.anchors(each.entropies, rule.can_fork(policy.token_texts(each.token_ids))))
        for each in completions
    ]
    text = (
        f"{sum(counts) / len(counts):.1f} anchors per greedy solution at tau {tau:g}, "
        f"none in {counts.count(0)} of {len(counts)}"
    )
    if 2 * counts.count(0) > len(counts):
        return warning(
            "anchors", f"{text}: most trees would have one leaf, so lower tau or give --anchors-per-solution"
        )
    return ok("anchors", text)
