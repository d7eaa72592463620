"""Populations of Q-networks, with the agent axis first in every tensor, and their export to ONNX."""
