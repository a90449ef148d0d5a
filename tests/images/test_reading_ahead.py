"""Files are read ahead by threads: in order, in bounded memory, and errors stay with their file."""

import gc
import itertools
import os
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import _base as futures
from pathlib import Path

import numpy
import pytest
from PIL import Image

from effnet_zoo.errors import InputError
from effnet_zoo.images import finding, reader
from effnet_zoo.images.finding import find_images
from effnet_zoo.images.reader import read_ahead
from effnet_zoo.images.transform import Pixels


def test_a_million_files_are_drawn_no_further_than_the_window() -> None:
    drawn = 0

    def paths() -> Iterator[Path]:
        nonlocal drawn
        for number in range(1_000_000):
            drawn = number + 1
            yield Path(f"folder/{number}.jpg")

    one = numpy.zeros((2, 2, 3), numpy.uint8)
    results = read_ahead(paths(), lambda path: one, workers=2, ahead=70)
    for number, (path, _) in enumerate(itertools.islice(results, 5000)):
        assert path.name == f"{number}.jpg"
        assert drawn == number + 71  # as many as may be read ahead, and never more
    results.close()  # type: ignore[attr-defined]
    assert drawn == 5070


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    one = tmp_path / "0000.jpg"
    Image.new("RGB", (8, 8)).save(one)
    for number in range(20_000):
        inner = tmp_path / "many" / f"{number // 1000:03}"
        inner.mkdir(parents=True, exist_ok=True)
        os.link(one, inner / f"{number:06}.jpg")
    # What the interpreter keeps of all names it has ever seen is not counted: that table grows in leaps.
    counted = [
        tracemalloc.Filter(True, file)
        for file in (reader.__file__, finding.__file__, threading.__file__, futures.__file__)
    ]
    paths, kept = [], []
    tracemalloc.start()
    try:
        for number, _ in enumerate(read_ahead(find_images([str(tmp_path / "many")]), _light, workers=2, ahead=70), 1):
            if number % 2500 == 0:
                paths.append(sum(issubclass(type(each), Path) for each in gc.get_objects()))
                snapshot = tracemalloc.take_snapshot().filter_traces(counted)
                kept.append(sum(trace.size for trace in snapshot.traces))
    finally:
        tracemalloc.stop()
    assert number == 20_000
    assert max(paths) < paths[0] + 100
    assert max(kept) < 200_000  # the names of a folder of a thousand, and the window


def _light(path: Path) -> Pixels:
    return numpy.zeros((1, 1, 3), numpy.uint8)


def test_order_stays_while_workers_finish_as_they_like() -> None:
    first = threading.Event()

    def read(path: Path) -> Pixels:
        if path.name == "0":
            assert first.wait(30)
        elif path.name == "3":
            first.set()
        elif path.name == "2":
            raise InputError(f"{path}: broken")
        return numpy.full((1, 1, 3), int(path.name), numpy.uint8)

    results = list(read_ahead((Path(str(n)) for n in range(6)), read, workers=2, ahead=4))
    assert [path.name for path, _ in results] == list("012345")
    assert isinstance(results[2][1], InputError)
    assert [int(each[0, 0, 0]) for _, each in results if not isinstance(each, InputError)] == [0, 1, 3, 4, 5]


def test_a_fault_of_ours_is_not_taken_for_a_broken_file() -> None:
    def read(path: Path) -> Pixels:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead([Path("a")], read, workers=1, ahead=1))
