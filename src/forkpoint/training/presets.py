"""Training as the papers describe it, by name.

Invariant: a preset is a `TrainConfig`; settings that a paper does not state have the defaults of
`TrainConfig`.
"""

from __future__ import annotations

from forkpoint.checks import check_choice
from forkpoint.prms.layout import PRMFormat
from forkpoint.training.config import TrainConfig

PRESETS = {
    # arXiv 2412.11006 and its code: tag, label tokens, loss; length 512; batch 64; 1e-6; one epoch; min
    "er-prm": TrainConfig(
        learning_rate=1e-6,
        num_epochs=1.0,
        packing="flat",
        batch_size=64,
        format=PRMFormat(tag=" ки", good=" +", bad=" -", max_length=512, aggregate="min"),
    ),
    # arXiv 2503.22233: 1e-6, five epochs, cosine, read at the token that ends a step;
    # batch, tag and aggregate are not stated
    "edu-prm": TrainConfig(learning_rate=1e-6, num_epochs=5.0, format=PRMFormat(segmentation="entropy")),
    # suits the lab's policy of under a million parameters; head and rate: docs/explanations/evidence.md;
    # line ends as tags, beta2 and dropout: docs/explanations/robust_training.md
    "lab": TrainConfig(
        learning_rate=1.6e-3,
        num_epochs=2.0,
        packing="tree",
        batch_size=2,
        micro_batch_size=2,
        warmup_share=0.05,
        adam_beta2=0.98,
        head_dropout=0.0,
        format=PRMFormat(tag="\n", replaces_line_end=True, head="classifier", max_length=1024),
    ),
}


def preset_named(name: str) -> TrainConfig:
    """The preset of that name; the ValueError for an unknown name lists the known ones."""
    check_choice("preset", name, PRESETS)
    return PRESETS[name]
