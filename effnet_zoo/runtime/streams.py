"""How a batch is shared out to threads.

A runtime that puts all threads on one large batch moves every map through memory several times, and waits for its
slowest thread at each layer. One thread an image keeps the maps in that core's cache and waits once, at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 2
"""Images a stream takes at a time, if there are enough: weights are read once for both, and maps still fit the cache.
Measured on B0 and V2-S with chunks of 1, 2 and 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """So many streams side by side, each of so many threads, that take so many images at a time."""

    streams: int
    threads: int
    chunk: int

    @classmethod
    def of(cls, images: int, threads: int) -> "Plan":
        """Returns the plan of a batch: one image gets all threads, and a batch of as many images one thread each.

        The number of streams divides that of threads. No thread is left over, and there are at most two plans for each
        divisor, whatever batches come.
        """
        streams = next(number for number in range(min(images, threads), 0, -1) if threads % number == 0)
        return cls(streams=streams, threads=threads // streams, chunk=CHUNK if images >= CHUNK * streams else 1)

    def chunks(self, images: int) -> Iterator[slice]:
        """Yields the parts of a batch; the last may be smaller."""
        return (slice(start, min(start + self.chunk, images)) for start in range(0, images, self.chunk))
