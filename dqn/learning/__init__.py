"""Losses, the optimizer and the gradient update of a population."""
