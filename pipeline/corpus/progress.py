"""A line every few seconds, for people who wait."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], label: str, noun: str) -> Iterator[Item]:
    """Pass items through and print their number and rate every ten seconds, so that short runs print nothing."""
    last = started = time.monotonic()
    count = 0
    for count, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > 10.0:
            last = time.monotonic()
            print(f"{label}: {count:,} {noun}, {count / (last - started):,.0f} a second", flush=True)
