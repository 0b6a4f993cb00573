"""Figures of results, all in one style."""
