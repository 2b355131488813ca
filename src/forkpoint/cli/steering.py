"""The steering of trees by a PRM, from flags."""

from __future__ import annotations

from forkpoint.prms.config import PRM
from forkpoint.trees.steer import Steering, SteeringConfig


def steering_of(search: SteeringConfig, prm: PRM | None) -> Steering | None:
    """The steering that the flags ask for; None for plain trees."""
    if search == SteeringConfig():
        return None
    return Steering(search, prm, prm.format if prm else None, getattr(prm, "num_tokens", None))
