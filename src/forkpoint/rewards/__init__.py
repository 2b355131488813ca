"""Rewards for reinforcement learning, from any PRM: for TRL (`prm_reward`), for verl (`forkpoint.rewards.verl`), or by hand.

Needs neither library. Importing this package does not import torch.
"""

from __future__ import annotations

from forkpoint.rewards.guards import RewardGuards
from forkpoint.rewards.reward import PRMReward, Reward
from forkpoint.rewards.trl import prm_reward

__all__ = ["PRMReward", "Reward", "RewardGuards", "prm_reward"]
