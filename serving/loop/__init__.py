"""The closed loop: notices drift, explains it, and records the adaptation to it."""
