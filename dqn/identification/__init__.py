"""Finds the world that explains a record of transitions. Imports no PyTorch."""
