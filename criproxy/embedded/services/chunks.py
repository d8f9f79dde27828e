"""Lists in parts, as the Stream* methods send them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

ITEMS: Final = 100
"""How many items go into one message of a streamed list."""

T = TypeVar("T")


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists of ``ITEMS``; nothing at all when there are none."""
    iterator = iter(items)
    while part := list(islice(iterator, ITEMS)):
        yield part
