"""CartPole's stress test, and the choice among agents that it serves."""
