"""The data path from the vector environment to the replay buffer."""
