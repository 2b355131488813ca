"""What a training is given and what it reports.

Invariant: importing this file does not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from forkpoint.prms.layout import PRMFormat


@dataclass(frozen=True)
class SFTConfig:
    """How a policy is fine-tuned on completions. The defaults are those of arXiv 2412.11006, for models of 1B parameters and above."""

    learning_rate: float = 5e-7
    """Peak; a cosine to 0 after the warm-up. RAFT scales it by (T - t + 1) / T in iteration t."""
    num_epochs: float = 2.0
    batch_size: int = 128
    """Completions per optimiser step."""
    micro_batch_size: int = 8
    """Completions per forward pass."""
    warmup_share: float = 0.0
    """Share of the steps, in [0, 1)."""
    weight_decay: float = 0.0
    lora_rank: int = 0
    """Rank of LoRA adapters, merged into the saved model; 0 trains all weights."""
    lora_targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Modules that get adapters."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the weights while training and as saved; auto keeps the checkpoint's. bfloat16 rounds steps of 5e-7 away."""
    save_every: int = 200
    """Optimiser steps between checkpoints."""

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.num_epochs > 0):
            raise ValueError(
                f"learning_rate and num_epochs must be above 0; {self.learning_rate} and {self.num_epochs} were given"
            )
        if min(self.batch_size, self.micro_batch_size, self.save_every) < 1:
            raise ValueError("batch_size, micro_batch_size and save_every must be at least 1")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if not 0 <= self.warmup_share < 1 or self.weight_decay < 0 or self.lora_rank < 0:
            raise ValueError("warmup_share must be in [0, 1), weight_decay and lora_rank at least 0")
        if self.dtype not in ("float32", "bfloat16", "auto"):
            raise ValueError(f"dtype {self.dtype!r} is unknown; choose from float32, bfloat16, auto")


@dataclass(frozen=True, slots=True)
class SFTRow:
    """A prompt and what the policy should say to it, in the policy's own tokens."""

    prompt_ids: tuple[int, ...]
    """At least one; not learned."""
    completion_ids: tuple[int, ...]
    """At least one, the end token included; learned."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError("a row needs at least one prompt token and one completion token")


@dataclass(frozen=True, slots=True)
class SFTReport:
    """What fine-tuning did."""

    num_rows: int
    num_tokens: int
    """Completion tokens, those that are learned."""
    first_loss: float
    """In nats per completion token, mean over the first tenth of the optimiser steps."""
    loss: float
    """The same over the last tenth."""


@dataclass(frozen=True)
class TrainConfig:
    """What a PRM is trained with. The defaults suit language models of 1B parameters and above."""

    learning_rate: float = 1e-6
    """Peak; warmed up linearly, then a cosine to 0 (1e-6 in both papers)."""
    num_epochs: float = 1.0
    packing: Literal["tree", "flat"] = "tree"
    """tree: a row is all solutions of a problem, each distinct prefix computed once; flat: a row is one solution. Where the
    model does not compute trees, training is flat, and the report says so."""
    max_pack_tokens: int = 4096
    """Tokens of a tree at most; the solutions of a problem that need more become several rows."""
    batch_size: int = 64
    """Rows per optimiser step, over all processes (64 solutions in arXiv 2412.11006)."""
    micro_batch_size: int = 8
    """Rows per forward pass of one process."""
    warmup_share: float = 0.03
    """Share of the steps, in [0, 1)."""
    weight_decay: float = 0.0
    label_weighting: Literal["uniform", "evidence"] = "uniform"
    """uniform: every step counts once. evidence: a step counts 1 - w, w the width of its label's 95 % interval, divided by
    the mean over all steps; labels without counts have width 1 and do not count."""
    max_solutions_per_problem: int = 0
    """Solutions of one problem to train on at most, right and wrong in turn; 0 takes all."""
    lora_rank: int = 0
    """Rank of LoRA adapters, merged into the saved model; 0 trains all weights."""
    lora_targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Modules that get adapters."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the weights while training; auto keeps the checkpoint's."""
    seed: int = 0
    save_every: int = 200
    """Optimiser steps between checkpoints."""
    format: PRMFormat = field(default_factory=PRMFormat)

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.packing not in ("tree", "flat"):
            raise ValueError(f"packing {self.packing!r} is unknown; choose from tree, flat")
        if self.label_weighting not in ("uniform", "evidence"):
            raise ValueError(
                f"label_weighting {self.label_weighting!r} is unknown; choose from uniform, evidence"
            )
        if self.learning_rate <= 0 or self.num_epochs <= 0:
            raise ValueError("learning_rate and num_epochs must be above 0")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What training did."""

    num_rows: int
    """Solutions trained on."""
    num_steps_labelled: int
    num_refused: int
    """Solutions left out because their tags do not fit."""
    refusals: dict[str, int]
    """Why, and how often."""
    loss: float
    """Mean over the last tenth of the optimiser steps."""
    packing: Literal["tree", "flat"]
    """What was done, which differs from what was asked where the model does not compute trees."""
    num_steps: int
    """Optimiser steps."""
    num_tokens: int
    """Tokens computed per epoch, without padding."""
    num_flat_tokens: int
    """Tokens that one row per solution would take."""
