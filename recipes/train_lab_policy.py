"""Train the lab policy: a tiny Qwen2 that solves the lab's word problems as carelessly as its demonstrations.

    python recipes/train_lab_policy.py --out runs/lab_policy
    python recipes/train_lab_policy.py --out runs/double_policy --grow-from src/forkpoint/lab/policy
    python recipes/train_lab_policy.py --out runs/shuffle_policy --family shuffle \\
        --body-from src/forkpoint/lab/policy

Training is seeded and resumable: batch k is a function of (seed, k), a checkpoint is written every few
minutes, and the same command continues from it. The finished directory (config, safetensors, tokenizer) loads
with `AutoModelForCausalLM`; measure it with `forkpoint lab check`, then copy it to `src/forkpoint/lab/policy`
(`shuffle_policy`).
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import cyclopts
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from forkpoint.checkpoint import load_tokenizer
from forkpoint.lab.oracle import LabStory
from forkpoint.lab.shuffle import SHUFFLE_LEVELS, draw_shuffle
from forkpoint.lab.story import DISTRACTIONS, LEVELS, distinct_stories, draw_story, split_of
from forkpoint.lab.teacher import Habits, demonstrate

STEP_TAG = " ки"
SORTED_BATCHES = 4


@dataclass(frozen=True)
class Stage:
    """A part of training with its own batch size and cosine schedule."""

    until: int
    """The batch at which the stage ends."""
    batch_size: int
    learning_rate: float
    """Peak learning rate of the cosine, if it had begun at batch 0."""
    horizon: int
    """The batch at which the cosine would end."""
    habits: Habits = field(default_factory=Habits)
    """Carelessness of the pupil whose demonstrations are used."""


TRAINING_LEVELS = {
    name: replace(
        rules, distractions=DISTRACTIONS, num_steps=(3, 4) if name == "default" else rules.num_steps
    )
    for name, rules in LEVELS.items()
}
"""All kinds of distractors with equal weight at every level, and some short stories at the default level."""
CARELESS = Habits(distracted={"owner": 0.40, "item": 0.45, "dream": 0.60, "idle": 0.40})
STAGES = (
    Stage(until=1700, batch_size=64, learning_rate=3e-3, horizon=2000, habits=CARELESS),
    Stage(until=3100, batch_size=32, learning_rate=2e-3, horizon=6000, habits=CARELESS),
    Stage(until=4000, batch_size=32, learning_rate=3e-3, horizon=5000, habits=CARELESS),
    Stage(until=5600, batch_size=32, learning_rate=4.5e-3, horizon=5600),
)
"""The stages that made the shipped policy, found by observing its training.

The first cosine was too short: the last digit of sums was still guessed when the learning rate had nearly
vanished; smaller batches at a higher rate learned it. The first pupil was misled by distractors so often that
two in a row were more probable than the right solution, so the last stage learns from a more careful pupil.
"""
SHUFFLE_LEVELS_EVENLY = {
    name: replace(rules, distractions=("idle", "dream")) for name, rules in SHUFFLE_LEVELS.items()
}
SHUFFLE_STAGES = (Stage(until=1200, batch_size=32, learning_rate=2.5e-3, horizon=1200),)
"""The run starts with the layers of the diaries' policy (`body_from`), which know days and lines."""
GROWN_STAGES = (Stage(until=1200, batch_size=32, learning_rate=1.5e-3, horizon=1200),)
"""The stage after growing, long enough for the new layers to come into use."""


@dataclass(frozen=True)
class Family:
    """The settings that differ between the families of stories."""

    draw: Callable[[str, random.Random, Any], LabStory]
    levels: Mapping[str, Any]
    stages: tuple[Stage, ...]
    pieces: str
    """Characters that the tokenizer never merges across.

    In the shuffles a comma leaves the space to the name behind it.
    """
    num_easy_batches: int
    """Number of batches in which the share of easy stories falls from all to its final value.

    Short texts teach arithmetic and the format cheaply.
    """

    def stories(self, level: str) -> Iterator[LabStory]:
        """Number of distinct stories in the train split of a level."""
        return distinct_stories("train", f"{level}/0", lambda rng: self.draw(level, rng, self.levels[level]))


FAMILIES = {
    "lab": Family(draw_story, TRAINING_LEVELS, STAGES, r"\p{N}| ?\p{L}+:?|[^\s\p{L}\p{N}]+ ?|\s", 500),
    "shuffle": Family(
        draw_shuffle, SHUFFLE_LEVELS_EVENLY, SHUFFLE_STAGES, r"\p{N}| ?\p{L}+:?|[^\s\p{L}\p{N}]+|\s", 300
    ),
}


@dataclass(frozen=True)
class TrainLabPolicyConfig:
    """The training settings; the defaults made the shipped policy, which is of the family lab."""

    out: Path = Path("runs/lab_policy")
    family: Literal["lab", "shuffle"] = "lab"
    grow_from: Path | None = None
    """Begin with this policy, with a new layer after each of its layers that changes nothing yet."""
    seed: int = 0
    body_from: Path | None = None
    """Begin with the layers of this policy of another family, and its embeddings of the common tokens."""
    num_batches: int | None = None
    """Stop after this many batches, by default after the last stage; the schedules do not change."""
    warmup_batches: int = 100
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 4
    num_heads: int = 4
    vocab_size: int = 448
    easy_share: float = 0.15
    hard_share: float = 0.1
    checkpoint_every: int = 100
    num_threads: int = 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        return FAMILIES[self.family].stages if self.grow_from is None else GROWN_STAGES

    @property
    def end(self) -> int:
        """Return the number of batches."""
        return self.stages[-1].until if self.num_batches is None else self.num_batches

    def stage_at(self, batch_idx: int) -> Stage:
        """Return the stage that a batch belongs to; the last stage has no end."""
        return next((stage for stage in self.stages if batch_idx < stage.until), self.stages[-1])


def build_tokenizer(family: Family, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which digits are single tokens and the step tag is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(family.pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<|pad|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    drawn = [itertools.islice(family.stories(level), 1500) for level in family.levels]
    texts = [f"{story.question}\n{story.solution}" for level_stories in drawn for story in level_stories]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(STEP_TAG, normalized=False)])
    wrapper: Any = PreTrainedTokenizerFast  # untyped in transformers
    return cast(
        PreTrainedTokenizerFast,
        wrapper(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>", model_max_length=1024),
    )


def build_model(config: TrainLabPolicyConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def grown(path: Path) -> Qwen2ForCausalLM:
    """Return the policy with twice the layers and the same function: the outputs of the copies are zero."""
    small = Qwen2ForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = copy.deepcopy(small.config)
    config.num_hidden_layers *= 2
    config.layer_types = [kind for kind in config.layer_types or () for _ in range(2)]
    large = Qwen2ForCausalLM(config)
    large.model.embed_tokens.load_state_dict(small.model.embed_tokens.state_dict())
    large.model.norm.load_state_dict(small.model.norm.state_dict())
    for idx, layer in enumerate(large.model.layers):
        layer.load_state_dict(small.model.layers[idx // 2].state_dict())
        if idx % 2:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return large


def transplant(path: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Copy the layers of another policy of the same shape, and the embeddings of the common tokens."""
    other = Qwen2ForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = load_tokenizer(str(path)).get_vocab()
    model.model.layers.load_state_dict(other.model.layers.state_dict())
    model.model.norm.load_state_dict(other.model.norm.state_dict())
    with torch.no_grad():
        for token, idx in tokenizer.get_vocab().items():
            if token in ids:
                model.model.embed_tokens.weight[idx] = other.model.embed_tokens.weight[ids[token]]


def demonstrations(config: TrainLabPolicyConfig, batch_idx: int) -> Iterator[tuple[str, str]]:
    """Return the (question, demonstration) pairs of one batch, all from the train split."""
    rng = random.Random(f"{config.seed}/{batch_idx}")
    family, num_given, stage = FAMILIES[config.family], 0, config.stage_at(batch_idx)
    ramp = 1.0 if config.grow_from else min(1.0, batch_idx / family.num_easy_batches)
    while num_given < stage.batch_size:
        is_easy = rng.random() < 1 - ramp * (1 - config.easy_share)
        is_hard = rng.random() < config.hard_share / (1 - config.easy_share)
        level = "easy" if is_easy else "hard" if is_hard else "default"
        story = family.draw(level, rng, family.levels[level])
        if split_of(story.question) == "train":
            num_given += 1
            yield story.question, demonstrate(story, rng, stage.habits)


def batches(
    config: TrainLabPolicyConfig, tokenizer: PreTrainedTokenizerFast, first_idx: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return (input ids, labels), each [batch, tokens]; labels cover only the solution and the end token.

    Groups of batches are sorted by length together, which saves a fifth of the padding.
    """
    eos, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    for group_idx in range(first_idx - first_idx % SORTED_BATCHES, config.end, SORTED_BATCHES):
        batch_size = config.stage_at(group_idx).batch_size
        rows: list[tuple[list[int], list[int]]] = []
        for batch_idx in range(group_idx, group_idx + SORTED_BATCHES):
            for question, solution in demonstrations(config, batch_idx):
                prompt_ids: list[int] = tokenizer.encode(question + "\n")
                rows.append((prompt_ids, [*tokenizer.encode(solution), eos]))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        order = list(range(SORTED_BATCHES))
        random.Random(f"{config.seed}/order/{group_idx}").shuffle(order)
        for offset, slot in enumerate(order):
            if group_idx + offset < first_idx:
                continue
            chunk = rows[slot * batch_size : (slot + 1) * batch_size]
            length = max(len(prompt) + len(solution) for prompt, solution in chunk)
            input_ids = torch.full((len(chunk), length), pad)
            labels = torch.full((len(chunk), length), -100)
            for row_idx, (prompt, answer) in enumerate(chunk):
                end = len(prompt) + len(answer)
                input_ids[row_idx, :end] = torch.tensor(prompt + answer)
                labels[row_idx, len(prompt) : end] = torch.tensor(answer)
            yield input_ids, labels


def learning_rate(config: TrainLabPolicyConfig, batch_idx: int) -> float:
    """Return the learning rate: linear warm-up, then the cosine of the stage down to 1/50 of its peak."""
    stage = config.stage_at(batch_idx)
    if batch_idx < config.warmup_batches:
        return stage.learning_rate * (batch_idx + 1) / config.warmup_batches
    progress = min(1.0, (batch_idx - config.warmup_batches) / (stage.horizon - config.warmup_batches))
    return stage.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(config: TrainLabPolicyConfig) -> None:
    torch.set_num_threads(config.num_threads)
    torch.set_flush_denormal(True)  # tiny gradients otherwise slow a CPU down by a quarter
    config.out.mkdir(parents=True, exist_ok=True)
    if config.grow_from is None:
        tokenizer = build_tokenizer(FAMILIES[config.family], config.vocab_size)
        model = build_model(config, tokenizer)
        if config.body_from is not None:
            transplant(config.body_from, model, tokenizer)
    else:
        tokenizer = cast(PreTrainedTokenizerFast, load_tokenizer(str(config.grow_from)))
        model = grown(config.grow_from)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint = config.out / "checkpoint.pt"
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["num_batches"]
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, "
        f"from batch {done}"
    )
    columns = [
        TextColumn("loss {task.fields[loss]:.4f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=config.end, completed=done, loss=float("nan"))
        smooth = None
        for batch_idx, (input_ids, labels) in enumerate(batches(config, tokenizer, done), start=done):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, batch_idx)
            loss = model(input_ids=input_ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
            progress.update(bar, advance=1, loss=smooth)
            if (batch_idx + 1) % config.checkpoint_every == 0 or batch_idx + 1 == config.end:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "num_batches": batch_idx + 1,
                }
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                progress.console.print(f"batch {batch_idx + 1} loss {smooth:.4f}")
                model.save_pretrained(config.out)
                tokenizer.save_pretrained(config.out)


def main(
    config: Annotated[TrainLabPolicyConfig, cyclopts.Parameter(name="*")] = TrainLabPolicyConfig(),
) -> None:
    """Train the lab policy; run the same command again to continue."""
    train(config)


if __name__ == "__main__":
    cyclopts.run(main)
