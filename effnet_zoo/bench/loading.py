"""How long weights take from a local file, or from the cache, into a model: this package beside timm.

Each load is a process of its own, the contestants in turn, so that none finds the other's memory warm; the file is in
the operating system's cache for all. Time is that of `create_model` alone, after the imports. Memory is what the
process holds at its most, less what it held before; only Linux tells it, in ``/proc``, and elsewhere it is not
measured. timm checks no hash; from the cache this package checks all of it.
"""

import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from effnet_zoo import atomic_io
from effnet_zoo.bench.processes import first_answer
from effnet_zoo.bench.timing import summary
from effnet_zoo.errors import EngineError, WeightsError
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.zoo import catalogue

COMMIT = "0" * 39 + "1"

PLACES = ("file", "cache")

CHILD = """
import json, sys, time
kind, name, place = sys.argv[1:]
import timm, torch
if kind.startswith("effnet_zoo"):
    import effnet_zoo
def kilobytes(what):  # not getrusage's maximum, which a process inherits from the one that started it
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(what))
    except (OSError, StopIteration):
        return None
before = kilobytes("VmRSS")
where = {"pretrained_cfg_overlay": {"file": place}} if kind.endswith("file") else {"cache_dir": place}
start = time.perf_counter()
model = timm.create_model(name, pretrained=True, **where)
seconds = time.perf_counter() - start
most = kilobytes("VmHWM")
peak = None if most is None or before is None else (most - before) * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "sum": float(model.classifier.bias.sum())}))
"""


def measure(name: str, *, place: str, rounds: int) -> dict[str, Any]:
    """Measures this package and timm with one model, in turn. Who fails is refused, with its process's last line.

    Args:
        name: The variant.
        place: ``file``, a local file, or ``cache``, the Hub's cache.
        rounds: Loads that count, after one each that fills the operating system's cache.

    Raises:
        WeightsError: If they did not load the same weights.
    """
    model = catalogue.find_variant(name)
    tag = model.default.tag
    names = {"timm": f"{model.upstream}.{tag}", "effnet_zoo": f"{model.name}.{tag}"}
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = write_weights(model.name, Path(folder))
        size = path.stat().st_size
        source = path if place == "file" else Path(folder, "hub")
        runs: dict[str, list[dict[str, Any]]] = {who: [] for who in names}
        refused: dict[str, str] = {}
        for _ in range(rounds + 1):
            for who in [who for who in names if who not in refused]:
                try:
                    runs[who].append(_load(f"{who} {place}", names[who], source))
                except EngineError as error:
                    refused[who] = str(error)
    if len({run["sum"] for taken in runs.values() for run in taken}) > 1:
        raise WeightsError(f"{name}: timm and effnet_zoo loaded different weights: nothing was measured")
    counted = {who: taken[1:] for who, taken in runs.items() if who not in refused}
    timings = {who: summary([run["seconds"] for run in taken]) for who, taken in counted.items()}
    peaks = {who: [run["peak"] for run in taken] for who, taken in counted.items()}
    return {
        "case": {"variant": model.name, "place": place, "bytes": size},
        "rounds": rounds,
        "results": {
            who: {
                **dataclasses.asdict(timing),
                **({} if None in peaks[who] else {"peak_over_weights": statistics.median(peaks[who]) / size}),
            }
            for who, timing in timings.items()
        },
        "ratios": {
            "timm": {who: timings["timm"].seconds / one.seconds for who, one in timings.items() if "timm" in timings}
        },
        "refused": refused,
    }


def write_weights(name: str, folder: Path) -> Path:
    """A file of random weights for a model, and a Hub cache in `folder` that has it."""
    model = EfficientNet.from_name(name, device="meta")
    draw = torch.Generator().manual_seed(0)
    state = {
        # Between 0 and 1: a negative variance would be refused.
        key: torch.rand(tensor.shape, generator=draw) if tensor.is_floating_point() else torch.tensor(0)
        for key, tensor in model.state_dict().items()
    }
    path = folder / f"{name}.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    digest = atomic_io.sha256(path)
    repository = folder / "hub" / f"models--{str(catalogue.find(name)[1].hub_id).replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    os.link(path, repository / "blobs" / digest)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / digest)
    return path


def _load(kind: str, name: str, source: Path) -> dict[str, Any]:
    """Returns one load in a process of its own: ``seconds``, ``peak`` in bytes or None, and the ``sum`` of weights."""
    answer: dict[str, Any] = json.loads(first_answer(CHILD, (kind, name, str(source)), {"HF_HUB_OFFLINE": "1"})[1])
    return answer
