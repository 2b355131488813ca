"""Settings of training, sampling and evaluation: what is refused, and how finished runs are recognised."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from forkpoint.content_key import content_key
from forkpoint.evaluation.label_truth import PrefixConfig
from forkpoint.evaluation.run import EvaluateConfig
from forkpoint.experiments.demo import DemoConfig
from forkpoint.experiments.lab_check import CheckConfig
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.sweep import SweepConfig
from forkpoint.prms.layout import PRMFormat
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.training.config import LoopConfig, SFTConfig, TrainConfig
from forkpoint.training.presets import PRESETS
from forkpoint.training.prm import NONE_HELD_OUT

LOOP = [
    ({"learning_rate": 0.0}, "learning_rate must be above 0; 0.0 was given"),
    ({"num_epochs": 0.0}, "num_epochs must be above 0; 0.0 was given"),
    ({"batch_size": 0}, "batch_size must be at least 1; 0 was given"),
    ({"micro_batch_size": 0}, "micro_batch_size must be at least 1; 0 was given"),
    ({"batch_size": 10, "micro_batch_size": 4}, "batch_size 10 is not a multiple of micro_batch_size 4"),
    ({"warmup_share": 2.0}, "warmup_share must be in [0, 1); 2.0 was given"),
    ({"weight_decay": -0.1}, "weight_decay must be at least 0; -0.1 was given"),
    ({"lora_rank": -1}, "lora_rank must be at least 0; -1 was given"),
    ({"dtype": "fp4"}, "dtype 'fp4' is unknown; choose from float32, bfloat16, auto"),
    ({"save_every": 0}, "save_every must be at least 1; 0 was given"),
]


@pytest.mark.parametrize("config", [TrainConfig, SFTConfig])
@pytest.mark.parametrize(("fields", "message"), LOOP)
def test_every_training_refuses_the_same_settings_of_its_loop(
    config: type[LoopConfig], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config(**fields)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (TrainConfig, {"packing": "bush"}, "packing 'bush' is unknown; choose from tree, flat"),
        (
            TrainConfig,
            {"label_weighting": "luck"},
            "label_weighting 'luck' is unknown; choose from uniform, evidence",
        ),
        (TrainConfig, {"adam_beta2": 1.0}, "adam_beta2 must be in [0, 1); 1.0 was given"),
        (TrainConfig, {"head_dropout": -0.1}, "head_dropout must be in [0, 1); -0.1 was given"),
        (TrainConfig, {"max_pack_tokens": 0}, "max_pack_tokens must be at least 1; 0 was given"),
        (
            TrainConfig,
            {"max_solutions_per_problem": -1},
            "max_solutions_per_problem must be at least 0; -1 was given",
        ),
        (RolloutConfig, {"num_samples": 0}, "num_samples must be at least 1; 0 was given"),
        (RolloutConfig, {"temperature": -1.0}, "temperature must be at least 0; -1.0 was given"),
        (RolloutConfig, {"top_p": 0.0}, "top_p must be in (0, 1]; 0.0 was given"),
        (RolloutConfig, {"max_tokens": 0}, "max_tokens must be at least 1; 0 was given"),
        (EvaluateConfig, {"num_samples": 0}, "num_samples must be at least 1; 0 was given"),
        (EvaluateConfig, {"top_p": 1.1}, "top_p must be in (0, 1]; 1.1 was given"),
        (EvaluateConfig, {"max_tokens": 0}, "max_tokens must be at least 1; 0 was given"),
        (SweepConfig, {"num_samples": 0}, "num_samples must be at least 1; 0 was given"),
        (SweepConfig, {"temperature": 0.0}, "temperature must be above 0; 0.0 was given"),
        (SweepConfig, {"max_tokens": 0}, "max_tokens must be at least 1; 0 was given"),
        (SweepConfig, {"num_seeds": 0}, "num_seeds must be at least 1; 0 was given"),
        (SweepConfig, {"num_rollouts": 0}, "num_rollouts must be at least 1; 0 was given"),
        (PrefixConfig, {"num_prefixes": 0}, "num_prefixes must be at least 1; 0 was given"),
        (PrefixConfig, {"num_rollouts": 0}, "num_rollouts must be at least 1; 0 was given"),
        (
            PrefixConfig,
            {"segmentation": "page"},
            "segmentation 'page' is unknown; choose from newline, entropy, solution",
        ),
        (DemoConfig, {"num_train_steps": 0}, "num_train_steps must be at least 1; 0 was given"),
        (DemoConfig, {"num_rollouts": 0}, "num_rollouts must be at least 1; 0 was given"),
        (CheckConfig, {"num_samples": 0}, "num_samples must be at least 1; 0 was given"),
        (CheckConfig, {"temperature": 0.0}, "temperature must be above 0; 0.0 was given"),
        (CheckConfig, {"tau": -0.1}, "tau must be at least 0; -0.1 was given"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(
    config: type[Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config(**fields)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (TrainConfig(), "0d02b119d170735c1783c5477e34cb68"),
        (PRESETS["er-prm"], "90a5f5ebaddbed4f88f2f0b12b6be3e6"),
        (PRESETS["edu-prm"], "de12baaedd8b8d20abacc9df78109cc8"),
        # the preset before it read at line ends
        (
            replace(
                PRESETS["lab"],
                adam_beta2=0.999,
                head_dropout=None,
                format=PRMFormat(head="classifier", max_length=1024),
            ),
            "552b46aa28afa3cdab517d1a799270d6",
        ),
        (SFTConfig(), "1e790e507370712c4116fbeb41470cb5"),
        (RaftConfig(), "816677e09f2c3a786a9254c45a89c870"),
    ],
)
def test_a_configuration_has_the_content_that_finished_runs_recorded(config: Any, key: str) -> None:
    """If a key changes, PRMs and policies that are finished are refused with ConfigDiffers.

    A training that was started without the settings for held-out problems is not asked for them.
    """
    row = config.to_row() if isinstance(config, TrainConfig) else asdict(config)
    recorded = {name: value for name, value in row.items() if name not in NONE_HELD_OUT}
    assert content_key(recorded) == key
