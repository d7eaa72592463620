"""Prefect's process worker with a fork server."""
