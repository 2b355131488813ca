"""Settings and reports of training.

Invariant: importing this file does not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, TypeAlias, get_args

from forkpoint.checks import check_above, check_at_least, check_choice, check_within
from forkpoint.prms.layout import PRMFormat
from forkpoint.training.held_out import HeldOut

WeightDtype: TypeAlias = Literal["float32", "bfloat16", "auto"]
Packing: TypeAlias = Literal["tree", "flat"]
LabelWeighting: TypeAlias = Literal["uniform", "evidence"]


@dataclass(frozen=True)
class LoopConfig:
    """The settings that every training loop has: optimiser, batches, LoRA, precision and checkpoints."""

    learning_rate: float = 1e-6
    """Peak learning rate; after the warm-up it falls to 0 along a cosine."""
    num_epochs: float = 1.0
    """Passes over all rows; need not be a whole number."""
    batch_size: int = 64
    """Rows per optimiser step, over all processes."""
    micro_batch_size: int = 8
    """Rows per forward pass of one process."""
    warmup_share: float = 0.0
    """Share of the optimiser steps during which the learning rate rises linearly, in [0, 1)."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    lora_rank: int = 0
    """Rank of the LoRA adapters, which are merged into the saved model; 0 trains all weights."""
    lora_targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the modules that get adapters."""
    dtype: WeightDtype = "float32"
    """Type of the weights; auto keeps the checkpoint's."""
    save_every: int = 200
    """Optimiser steps between checkpoints."""

    def __post_init__(self) -> None:
        check_above(0, learning_rate=self.learning_rate, num_epochs=self.num_epochs)
        check_at_least(
            1, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size, save_every=self.save_every
        )
        check_at_least(0, weight_decay=self.weight_decay, lora_rank=self.lora_rank)
        check_within("[0, 1)", warmup_share=self.warmup_share)
        check_choice("dtype", self.dtype, get_args(WeightDtype))
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )


@dataclass(frozen=True)
class SFTConfig(LoopConfig):
    """How a policy is fine-tuned on completions.

    The defaults are those of arXiv 2412.11006, for models of 1B parameters and above.
    """

    learning_rate: float = 5e-7
    """Peak learning rate, which falls to 0 along a cosine; RAFT multiplies it by (T - t + 1) / T in iteration
    t."""
    num_epochs: float = 2.0
    """Passes over all completions; need not be a whole number."""
    batch_size: int = 128
    """Completions per optimiser step."""
    micro_batch_size: int = 8
    """Completions per forward pass."""
    dtype: WeightDtype = "float32"
    """Type of the weights during training and when saved; auto keeps the checkpoint's. In bfloat16,
    updates of 5e-7 are rounded away."""


@dataclass(frozen=True, slots=True)
class SFTRow:
    """A prompt and the completion that the policy should learn, in the policy's own tokens."""

    prompt_ids: tuple[int, ...]
    """At least one token; the prompt is not learned."""
    completion_ids: tuple[int, ...]
    """At least one token, including the end token; the completion is learned."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError("a row needs at least one prompt token and one completion token")


@dataclass(frozen=True, slots=True)
class SFTReport:
    """The result of fine-tuning."""

    num_rows: int
    num_tokens: int
    """Completion tokens, which are the ones that are learned."""
    first_loss: float
    """Mean loss over the first tenth of the optimiser steps, in nats per completion token."""
    loss: float
    """Mean loss over the last tenth of the optimiser steps, in nats per completion token."""


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """How a PRM is trained. The defaults suit language models of 1B parameters and above."""

    learning_rate: float = 1e-6
    """Peak learning rate; it rises linearly during the warm-up, then falls to 0 along a cosine (1e-6 in both
    papers)."""
    batch_size: int = 64
    """Rows per optimiser step, over all processes (64 solutions in arXiv 2412.11006)."""
    warmup_share: float = 0.03
    """Share of the optimiser steps during which the learning rate rises linearly, in [0, 1)."""
    dtype: WeightDtype = "float32"
    """Type of the weights during training; auto keeps the checkpoint's."""
    adam_beta2: float = 0.999
    """Decay of AdamW's mean of squared gradients, in [0, 1): it looks back over 1 / (1 - beta2) steps, so a
    training of less than a few thousand steps may want 0.98."""
    head_dropout: float | None = None
    """Share of the last hidden states that are zeroed before a classifier head, in [0, 1); None keeps the
    model's own, which is 0.1 if its configuration names none. Other heads have no dropout."""
    packing: Packing = "tree"
    """tree: a row holds all solutions of a problem, and each distinct prefix is computed once. flat: a row is
    one solution. If the model cannot compute trees, training is flat, and the report says so."""
    max_pack_tokens: int = 4096
    """Maximum number of tokens of a tree; if the solutions of a problem need more, they become several
    rows."""
    label_weighting: LabelWeighting = "uniform"
    """uniform: every step counts once. evidence: a step counts 1 - w, divided by the mean over all steps;
    w is the width of the 95 % interval of its label. Labels without counts have width 1 and do not count."""
    max_solutions_per_problem: int = 0
    """Maximum number of solutions per problem to train on, right and wrong ones in turn; 0 takes all."""
    seed: int = 0
    """Seed of the order of the rows, of new weights, of the choice of solutions, and of the problems that are
    held out."""
    held_out_share: float = 0.05
    """Share of the problems that are not trained on, in [0, 1), at least one: the report says how well the
    PRM scores them. 0 trains on all problems."""
    evaluate_every: int = 0
    """Optimiser steps between two measurements on the held-out problems; 0 is a tenth of the training. The
    last step is always measured."""
    format: PRMFormat = field(default_factory=PRMFormat)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("packing", self.packing, get_args(Packing))
        check_choice("label_weighting", self.label_weighting, get_args(LabelWeighting))
        check_at_least(1, max_pack_tokens=self.max_pack_tokens)
        check_at_least(0, max_solutions_per_problem=self.max_solutions_per_problem)
        check_at_least(0, evaluate_every=self.evaluate_every)
        check_within("[0, 1)", held_out_share=self.held_out_share, adam_beta2=self.adam_beta2)
        if self.head_dropout is not None:
            check_within("[0, 1)", head_dropout=self.head_dropout)

    def to_row(self) -> dict[str, Any]:
        """The settings as JSON, as they stand in the configuration of a run.

        Settings that older versions did not have are left out at their defaults, which are what those
        versions did.
        """
        row = {**asdict(self), "format": self.format.to_row()}
        newer = ("adam_beta2", "head_dropout")
        return {
            name: value
            for name, value in row.items()
            if name not in newer or value != type(self).__dataclass_fields__[name].default
        }


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The result of training a PRM."""

    num_rows: int
    """Solutions that were trained on."""
    num_steps_labelled: int
    """Labelled steps of these solutions."""
    num_refused: int
    """Solutions that were left out because their tags do not fit."""
    refusals: dict[str, int]
    """Number of refused solutions by reason."""
    loss: float
    """Mean loss over the last tenth of the optimiser steps."""
    packing: Packing
    """The packing that was used; it differs from the one asked for if the model cannot compute trees."""
    num_steps: int
    """Optimiser steps."""
    num_tokens: int
    """Tokens computed per epoch, without padding."""
    num_flat_tokens: int
    """Tokens that one row per solution would take."""
    held_out: HeldOut | None = None
    """How well the trained PRM scores the problems that were held out; None if there were none."""

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> Self:
        """Read the summary of the training's manifest; older ones have nothing held out."""
        held_out = summary.get("held_out")
        return cls(**{**summary, "held_out": None if held_out is None else HeldOut.of_row(held_out)})
