"""Write a PRM trained by forkpoint as a checkpoint in the layout of Qwen2.5-Math-PRM, which vLLM serves.

Invariant: the scores stay the same. The two logits of the head become those of Linear-ReLU-Linear, since
x = relu(x) - relu(-x). The format of the text, its tag included, stays forkpoint's and is kept beside the
weights, so `load_prm` reads the checkpoint as before; vLLM needs the id of the tag (`step_tag_id`), and
requests of token ids.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from forkpoint.prms.qwen import Qwen2ForProcessRewardModel
from forkpoint.prms.tagged import GOOD_CLASS, TaggedPRM


@torch.no_grad()
def save_as_qwen(prm: TaggedPRM, directory: Path) -> None:
    """Write the checkpoint.

    ValueError if the PRM's model is not a Qwen2 or its tag is white space, FileExistsError if `directory` is
    not empty.
    """
    config = prm.model.config
    if config.model_type != "qwen2":
        raise ValueError(
            f"a {config.model_type} cannot be written in the layout of Qwen2.5-Math-PRM; "
            "it takes a PRM whose base is a qwen2"
        )
    if not prm.layout.is_tag_reserved:
        raise ValueError(
            f"the step tag is {prm.format.tag!r}, which occurs inside texts too, and vLLM scores every token "
            "that equals it; train the PRM with a tag that occurs nowhere else, such as --format.tag ' ки'"
        )
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; name a new directory")
    weight_2_D, bias_2 = _bad_and_good(prm)
    model = Qwen2ForProcessRewardModel(config).to(prm.model.dtype)
    model.model.load_state_dict(prm.model.model.state_dict())
    inner, outer = model.score[0], model.score[2]
    for parameter in model.score.parameters():
        parameter.zero_()
    inner.weight[:4], inner.bias[:4] = torch.cat([weight_2_D, -weight_2_D]), torch.cat([bias_2, -bias_2])
    outer.weight[:, :4] = torch.tensor([[1, 0, -1, 0], [0, 1, 0, -1]])
    model.save_pretrained(directory)
    prm.tokenizer.save_pretrained(directory)
    replace(prm.format, head="classifier").save(directory)


def _bad_and_good(prm: TaggedPRM) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights [2, D] and biases [2] of the logits of a bad and of a good step."""
    if prm.layout.good_bad_ids is not None:
        good_id, bad_id = prm.layout.good_bad_ids
        weight_2_D = prm.model.lm_head.weight[[bad_id, good_id]]
        return weight_2_D, torch.zeros_like(weight_2_D[:, 0])
    classes = [1 - GOOD_CLASS, GOOD_CLASS]
    return prm.model.score.weight[classes], prm.model.score.bias[classes]
