"""Copies and steps that only take time."""
