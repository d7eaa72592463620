"""The numbers that configuration fields may have."""

from typing import Final

POSITIVE: Final = (
    "num_agents", "num_envs", "num_quantiles", "replay_capacity", "min_replay_batches", "n_step", "reward_scale",
    "batch_size", "updates_per_step", "learning_rate", "adam_eps", "max_updates", "eval_interval", "eval_episodes",
    "acceptance_episodes", "log_interval", "num_threads",
)  # fmt: skip
NOT_NEGATIVE: Final = (
    "seed", "num_atoms", "epsilon_decay_updates", "max_gradient_norm", "learning_rate_end",
    "learning_rate_decay_updates", "weight_decay", "target_update_interval", "target_update_episodes", "max_episodes",
    "eval_start", "max_episode_steps", "checkpoint_interval",
)  # fmt: skip
LEAST: Final = 2.0**-126
GREATEST: Final = (2 - 2.0**-23) * 2.0**127
"""Smallest and largest normal number of float32; smaller numbers are flushed to 0."""
ONE: Final = 1 - 2.0**-25
"""Numbers from here on round to 1 in float32."""
LEAST_SCALE: Final = 1e-6
SCALE_REASON: Final = "must be 1e-06 or above: dividing an observation by less overflows float32 within a few layers"
GREATEST_RETURN: Final = 1e9
_FINITE: Final = "so that its square, which the loss contains, is well within float32"
BETWEEN: Final = {
    "learning_rate": (0.0, 1.0, "because a step changes a weight by about as much and weights are about 0.1"),
    "learning_rate_end": (0.0, 1.0, "because a step changes a weight by about as much and weights are about 0.1"),
    "adam_eps": (1e-19, GREATEST, "because its square must be a float32 and it divides a vanishing gradient"),
    "reward_scale": (0.0, GREATEST_RETURN, _FINITE),
    "initial_q": (-GREATEST_RETURN, GREATEST_RETURN, _FINITE),
    "num_threads": (1, 256, "because more threads do not fit a machine"),
}
"""Least and greatest value and the reason, for fields with limits besides those of their type."""
NOT_IN_TENSORS: Final = {"acceptance_return", "checkpoint_interval"}
FRACTION: Final = (
    "epsilon_start", "epsilon_end", "epsilon_decay_per_episode", "gamma", "tau", "average_rate", "acceptance_epsilon",
    "priority_exponent", "importance_exponent", "exploration_persistence",
)  # fmt: skip
