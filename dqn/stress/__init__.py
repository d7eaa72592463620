"""CartPole's stress test, its baselines, and the choice among solved agents by it."""
