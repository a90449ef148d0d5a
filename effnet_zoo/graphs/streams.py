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
        """For a batch: one image gets all threads. Streams come in powers of two, so that plans stay few."""
        streams = 1 << (min(images, threads).bit_length() - 1)
        return cls(streams=streams, threads=threads // streams, chunk=CHUNK if images >= CHUNK * streams else 1)

    def chunks(self, images: int) -> Iterator[slice]:
        """The parts of a batch; the last may be smaller."""
        return (slice(start, min(start + self.chunk, images)) for start in range(0, images, self.chunk))
