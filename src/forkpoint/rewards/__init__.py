"""Rewards for reinforcement learning from any PRM, for TRL, for verl, or for a loop of your own.

`prm_reward` is for TRL, `forkpoint.rewards.verl` for verl, `PRMReward` for all others. Needs neither library.
Importing this package does not import torch.
"""

from __future__ import annotations

from forkpoint.rewards.guards import RewardGuards
from forkpoint.rewards.reward import PRMReward, Reward
from forkpoint.rewards.trl import prm_reward

__all__ = ["PRMReward", "Reward", "RewardGuards", "prm_reward"]
