"""Layouts that change under load for a long time, and every output compared."""
