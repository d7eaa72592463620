"""Environments and their worlds. This room imports no PyTorch: serving uses it too."""
