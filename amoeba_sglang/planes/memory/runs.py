"""Neighbours taken together: one system call for many pages."""

from collections.abc import Iterable, Iterator


def find_runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first number, count) of every run of consecutive numbers, in the order given."""
    first = count = 0
    for number in numbers:
        if count and number == first + count:
            count += 1
        else:
            if count:
                yield first, count
            first, count = number, 1
    if count:
        yield first, count
