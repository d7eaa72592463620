"""The way of the data: from the vector environment into the replay buffer."""
