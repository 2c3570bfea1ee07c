"""Verifiable rewards for reinforcement learning: a registry of one file per family, and the check before training.

A new reward is a new module in this folder with a function under `@reward` or `@verifier`; it is found by its name.
"""

from pipeline.rewards.registry import Example, Reward, describe, find, names, resolve, reward, reward_weights, verifier
from pipeline.rewards.trainer import for_trainer

__all__ = [
    "Example",
    "Reward",
    "describe",
    "find",
    "for_trainer",
    "names",
    "resolve",
    "reward",
    "reward_weights",
    "verifier",
]
