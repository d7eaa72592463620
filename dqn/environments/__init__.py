"""Environments and their worlds. Imports no PyTorch, because serving uses this package too."""
