"""Streams: how a batch is shared out to threads."""

import pytest

from effnet_zoo.runtime.streams import MOST_IMAGES, Streams


@pytest.mark.parametrize("threads", range(1, 33))
def test_a_batch_uses_every_thread_and_no_more_and_each_image_once(threads: int) -> None:
    found = set()
    for batch in range(1, 65):
        streams = Streams.for_batch(batch, threads)
        parts = list(streams.parts(batch))
        found.add(streams)
        assert 1 <= streams.count <= min(batch, threads)
        assert streams.count * streams.threads == threads
        assert [number for part in parts for number in range(part.start, part.stop)] == list(range(batch))
        assert all(1 <= part.stop - part.start <= streams.images for part in parts)
        assert len(parts) >= streams.count
        # An engine is compared with the model on this batch.
        assert Streams.for_batch(min(batch, MOST_IMAGES * threads), threads) == streams
    assert len(found) <= 2 * sum(threads % number == 0 for number in range(1, threads + 1))


def test_one_image_gets_all_threads_and_many_one_each() -> None:
    assert Streams.for_batch(1, 8) == Streams(count=1, threads=8, images=1)
    assert Streams.for_batch(32, 8) == Streams(count=8, threads=1, images=2)
    assert Streams.for_batch(3, 8) == Streams(count=2, threads=4, images=1)
    assert Streams.for_batch(8, 1) == Streams(count=1, threads=1, images=2)
    assert Streams.for_batch(32, 6) == Streams(count=6, threads=1, images=2)
    assert Streams.for_batch(16, 24) == Streams(count=12, threads=2, images=1)
