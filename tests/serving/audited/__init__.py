"""Servers whose workers look after every step whether each slot has exactly one owner, and log what
happens to their requests: python -m tests.serving.audited."""
