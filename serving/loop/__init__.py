"""The closed loop: drift, what explains it, and what is reported about it."""
