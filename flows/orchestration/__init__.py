"""Prefect, where there is one: steps, flow runs, and what a terminal shows."""
