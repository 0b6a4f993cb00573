"""Typed errors for users, and how they show values. A broken invariant of ours is an assert."""

from typing import Any

_SHOWN = 60


class AmoebaError(Exception):
    """Base of every error that Amoeba raises for a user to read."""


class ConfigError(AmoebaError):
    """A launch flag, a model or an environment that Amoeba cannot serve; the text names it."""


class RequestError(AmoebaError):
    """An admin request that is refused; `status` is its HTTP status, `status_code` SGLang's name of
    it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = self.status_code = status


class InvalidRequest(AmoebaError, ValueError):
    """A request that is refused with 400; the text names the field, its value and what it may be.

    A ValueError, since that is what every route of SGLang answers with 400.
    """


def show(value: Any) -> str:
    """A value as one short printable piece of text, whatever it is."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        # Python refuses to write numbers of thousands of digits, and what is nested as deeply.
        return f"(a {type(value).__name__} too large to show)"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
