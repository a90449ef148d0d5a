"""Runs that are killed at random moments, or race for one output: no row is lost, and none is there twice."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.faults.writing import REFUSED, Nursery, names, nursery
from tests.predict.test_results import FORMATS, names_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture(scope="module")
def light() -> Iterator[Nursery]:
    """Processes that write rows without a model."""
    with nursery("tests.predict.test_results") as made:
        yield made


def killed_until_whole(
    start: Callable[[], int], wait: Callable[[int], int], draw: random.Random, longest: float
) -> int:
    """Starts runs and kills each at a random moment, until one ends by itself; returns how many were killed."""
    for kills in range(1000):
        number = start()
        time.sleep(draw.uniform(0, longest) * draw.choice([0.1, 0.4, 1]))
        os.kill(number, signal.SIGKILL)  # one that has ended waits for `wait`
        status = wait(number)
        assert status in (0, -signal.SIGKILL), status
        if status == 0:
            return kills
    raise AssertionError("no run came to its end")


def kill_rows(light: Nursery, folder: Path, suffix: str, kills: int, seed: int) -> None:
    draw, done = random.Random(seed), 0
    while done < kills:
        path = folder / f"{done}.{suffix}"

        def start(path: Path = path) -> int:
            pause = draw.choice([0.001, 0.002, 0.004])
            return light.start("rows", folder / "log", path=str(path), pause=pause, options={"resume": True})

        done += killed_until_whole(start, light.wait, draw, longest=0.25)
        assert names_of(path) == names()
        assert not path.with_name(f"{path.name}.parts").exists()
    assert not (folder / "log").read_text()


def race(light: Nursery, folder: Path, suffix: str, rounds: int, seed: int) -> None:
    draw, refused = random.Random(seed), 0
    for number in range(rounds):
        path, log = folder / f"race-{number}.{suffix}", folder / f"race-{number}.log"
        options = draw.choice([{}, {"resume": True}, {"force": True}])
        while True:
            pair = [light.start("rows", log, path=str(path), pause=0.002, options=options) for _ in range(2)]
            if draw.random() < 0.5:
                time.sleep(draw.uniform(0, 0.15))
                os.kill(draw.choice(pair), signal.SIGKILL)
            statuses = [light.wait(each) for each in pair]
            assert set(statuses) <= {0, REFUSED, -signal.SIGKILL}
            refused += statuses.count(REFUSED)
            if 0 in statuses:
                break
            options = {"resume": True}
        assert names_of(path) == names()
        for line in log.read_text().splitlines() if log.exists() else ():
            assert "another process is writing it" in line or "there already: continue it with --resume" in line
    assert refused


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_killed_run_loses_and_doubles_no_row(light: Nursery, tmp_path: Path, suffix: str) -> None:
    kill_rows(light, tmp_path, suffix, kills=6, seed=0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_of_two_runs_that_race_one_is_refused(light: Nursery, tmp_path: Path, suffix: str) -> None:
    race(light, tmp_path, suffix, rounds=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_killed_runs_lose_and_double_no_row(light: Nursery, tmp_path: Path, suffix: str) -> None:
    kill_rows(light, tmp_path, suffix, kills=30, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_races_leave_each_row_once(light: Nursery, tmp_path: Path, suffix: str) -> None:
    race(light, tmp_path, suffix, rounds=20, seed=1)


@pytest.mark.slow
def test_the_killed_command_loses_and_doubles_no_row(tmp_path: Path) -> None:
    photos, draw, done = tmp_path / "photos", random.Random(2), 0
    photos.mkdir()
    Image.new("RGB", (64, 64), "red").save(photos / "000.png")
    for number in range(1, 100):
        os.link(photos / "000.png", photos / f"{number:03}.png")
    # Imported, not run: threads that torch had started would be missing in a child.
    with nursery("effnet_zoo.registry", "effnet_zoo.predict", "effnet_zoo.images.reader") as heavy:
        for turn in range(100):
            path = tmp_path / f"{turn}.{FORMATS[turn % 3]}"
            arguments = ["predict", str(photos), "--output", str(path), "--resume", "--batch-size", "2"]

            def start(arguments: list[str] = arguments) -> int:
                return heavy.start("command", tmp_path / "log", arguments=arguments)

            done += killed_until_whole(start, heavy.wait, draw, longest=4)
            assert names_of(path) == sorted(map(str, photos.iterdir()))
            if turn >= 2 and done >= 10:
                break
