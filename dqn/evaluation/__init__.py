"""Episodic returns and their statistics."""
