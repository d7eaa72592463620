"""Figures, animations and reports."""
