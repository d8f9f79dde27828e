"""Splits lists into the messages of the Stream* methods."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

ITEMS: Final = 100
"""Number of items in one message of a streamed list."""

T = TypeVar("T")


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists of ``ITEMS``; nothing if there are none."""
    iterator = iter(items)
    while part := list(islice(iterator, ITEMS)):
        yield part
