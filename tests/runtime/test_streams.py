"""Streams: how a batch is shared out to threads."""

import itertools
import threading
import types
from typing import Any

import numpy
import pytest

from effnet_zoo.runtime.targets.onnx import MOST_IMAGES, ONNX, Streams


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


@pytest.mark.parametrize(("batch", "threads"), [(1, 4), (3, 4), (4, 4), (9, 4), (32, 6), (5, 1)])
def test_onnx_runtime_computes_with_every_thread_and_never_with_more(
    batch: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams.for_batch(batch, threads)
    lock, together, calls = threading.Lock(), threading.Barrier(streams.count), itertools.count()
    at_work = [0]
    counts: list[int] = []

    class Session:
        def __init__(self, file: bytes, options: Any, providers: list[str]) -> None:
            self.threads = options.intra_op_num_threads

        def get_inputs(self) -> list[Any]:
            return [types.SimpleNamespace(name="images")]

        def run(self, _: None, given: dict[str, Any]) -> list[Any]:
            with lock:
                at_work[0] += self.threads
                counts.append(at_work[0])
                is_first = next(calls) < streams.count
            if is_first:  # it returns only if all streams run side by side
                together.wait(30)
            with lock:
                at_work[0] -= self.threads
            return [given["images"]]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    images = numpy.arange(batch, dtype=numpy.float32)[:, None]
    assert numpy.array_equal(ONNX.open_session(b"", threads)(images), images)
    assert max(counts) == threads
