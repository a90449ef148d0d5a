"""How a batch is shared out to threads.

A runtime that puts all threads on one large batch moves every map through memory several times, and waits for its
slowest thread at each layer. One thread an image keeps the maps in that core's cache and waits once, at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MOST_IMAGES = 2
"""Images that a stream takes at a time, if there are enough. Weights are read once for both, and maps still fit into
the cache. Measured on B0 and V2-S with 1, 2 and 4 images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Streams side by side.

    Attributes:
        count: How many streams.
        threads: Threads that each stream has.
        images: Images that each stream takes at a time.
    """

    count: int
    threads: int
    images: int

    @classmethod
    def for_batch(cls, batch: int, threads: int) -> "Streams":
        """Return the streams of a batch: one image gets all threads, a batch of as many images gets one thread each.

        The number of streams divides the number of threads. So no thread is left over, and there are at most two
        results for each divisor, whatever batches come.
        """
        count = next(number for number in range(min(batch, threads), 0, -1) if threads % number == 0)
        images = MOST_IMAGES if batch >= MOST_IMAGES * count else 1
        return cls(count=count, threads=threads // count, images=images)

    def parts(self, batch: int) -> Iterator[slice]:
        """Yield the parts of a batch; the last may be smaller."""
        return (slice(start, min(start + self.images, batch)) for start in range(0, batch, self.images))
