"""Feeds mutants to the readers, in a process of its own with bounded memory and time: ``python -m tests.faults.fuzz``.

It prints a JSON object: how many mutants of each kind were read, how many refused, and the strays: those that raised
another error than this package's, ran out of memory or took too long. ``--kind`` and ``--only`` make one of them again.
"""

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from effnet_zoo.arch.notation import decode_block, decode_blocks, decode_rows
from effnet_zoo.checkpoints import config_json, statefile
from effnet_zoo.errors import EffnetZooError
from effnet_zoo.images.reader import read_image
from effnet_zoo.runtime.metadata import Metadata
from effnet_zoo.zoo import ledger
from effnet_zoo.zoo.class_names import read_labels
from tests.faults import mutants

MEMORY = 2 << 30
"""Bytes that a reader may add to what the process holds after its imports."""

SECONDS = 5.0
"""A reader may take for one mutant."""

Case = Callable[[random.Random, Path], Any]
"""Makes a mutant and reads it; the path is a file that the mutant may be written to."""


class TooLongError(BaseException):
    """A reader that does not come back."""


def cases() -> dict[str, Case]:
    """Returns what makes and reads the mutants of each kind."""
    images, pickles = mutants.images(), mutants.pickles()
    toml, saved, record = mutants.ledger_text(), mutants.config_text(), mutants.record_text()
    tensors = mutants.safetensors()
    header = int.from_bytes(tensors[:8], "little")
    labels = json.dumps({"0": "cat", "1": "dog"})
    how = ledger.load()["effnet_zoo_lite0"]["in1k"].preprocessing

    def safetensors(draw: random.Random, path: Path) -> Any:
        if draw.random() < 0.5:
            content = mutants.binary(tensors[: 8 + header], draw) + tensors[8 + header :]
        else:
            fields = mutants.json_of(tensors[8 : 8 + header].decode(), draw).encode("utf-8", "surrogatepass")
            content = len(fields).to_bytes(8, "little") + fields + tensors[8 + header :]
        return statefile.read_weights(mutants.write(path, content))

    def label_file(draw: random.Random, path: Path) -> Any:
        path = path.with_suffix(draw.choice((".json", ".txt")))
        try:
            return read_labels(mutants.write(path, mutants.json_of(labels, draw)))
        finally:
            path.unlink()

    return {
        "block string": lambda draw, _: decode_block(mutants.text(draw.choice(mutants.BLOCKS), draw)),
        "block list": lambda draw, _: decode_blocks(mutants.tree(mutants.BLOCKS, draw)),
        "rows": lambda draw, _: decode_rows(mutants.tree(mutants.ROWS, draw), stem=24),
        "ledger": lambda draw, _: ledger.parse(mutants.toml_of(toml, draw), "ledger.toml"),
        "config.json": lambda draw, path: config_json.read_config(mutants.write(path, mutants.json_of(saved, draw))),
        "record": lambda draw, _: Metadata.from_json(mutants.json_of(record, draw), "file.onnx"),
        "labels": label_file,
        "safetensors": safetensors,
        "pickle": lambda draw, path: statefile.read_weights(
            mutants.write(path, mutants.binary(draw.choice(pickles), draw))
        ),
        "image": lambda draw, path: read_image(mutants.write(path, mutants.binary(draw.choice(images), draw)), how),
    }


def run(case: Case, kind: str, number: int, path: Path) -> str | None:
    """Makes and reads one mutant; returns None if it was read, "refused", or what went wrong."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        case(random.Random(f"{kind} {number}"), path)
    except EffnetZooError as error:
        return "refused" if "\n" not in str(error) else f"a message of several lines: {error!r}"
    except (Exception, TooLongError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


@contextmanager
def alarm() -> Iterator[None]:
    """Lets a reader that has used up its time end in a `TooLongError`."""
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def _too_long(_: int, __: FrameType | None) -> None:
    raise TooLongError


def limit_memory() -> None:
    """Lets this process take `MEMORY` more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Runs the mutants that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100, help="mutants of each kind")
    parser.add_argument("--kind")
    parser.add_argument("--only", type=int, help="the number of one mutant, to see its traceback")
    options = parser.parse_args()
    chosen = {kind: case for kind, case in cases().items() if options.kind in (None, kind)}
    limit_memory()
    answer: dict[str, Any] = {"read": {}, "refused": {}, "strays": {}}
    with tempfile.TemporaryDirectory() as folder, alarm():
        path = Path(folder, "mutant")
        if options.only is not None:
            chosen[options.kind](random.Random(f"{options.kind} {options.only}"), path)
            return
        for kind, case in chosen.items():
            sys.stderr.write(f"{kind}\n")
            found = {number: run(case, kind, number, path) for number in range(options.count)}
            answer["read"][kind] = sum(said is None for said in found.values())
            answer["refused"][kind] = sum(said == "refused" for said in found.values())
            strays = {number: said for number, said in found.items() if said not in (None, "refused")}
            answer["strays"] |= {f"{kind} {number}": said for number, said in strays.items()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
