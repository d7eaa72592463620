"""Hyper-parameter search with whole populations."""
