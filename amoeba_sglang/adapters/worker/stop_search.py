"""How a worker looks for a stop_regex: with a time limit, since every request waits meanwhile."""

import regex

STEP_SECONDS = 0.05
"""What all the patterns of one request may take in a step."""


class StopSearch:
    """Searches for the stop patterns of one request, of which there are `patterns`."""

    def __init__(self, patterns: int) -> None:
        self._seconds = STEP_SECONDS / patterns

    def __call__(self, pattern: str, text: str) -> regex.Match[str] | None:
        """The first match, or None; TimeoutError, which ends the request with 400."""
        try:
            return regex.search(pattern, text, timeout=self._seconds)
        except TimeoutError:
            raise TimeoutError(
                f"a search took longer than {1000 * self._seconds:g} ms, of "
                f"{1000 * STEP_SECONDS:g} ms a step for all patterns"
            ) from None
