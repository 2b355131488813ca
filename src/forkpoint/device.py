"""The device that `auto` stands for."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """What torch calls `name`; `auto` is the first CUDA device if there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
