"""How long weights take from a local file, or from the Hub's cache, into a model: this package beside timm.

Each load is a process of its own, so that no contestant finds the other's memory warm; the file is in the operating
system's cache for all. Time is that of `create_model` alone, after the imports. Memory is the most that the process
holds, less what it held before; only Linux tells it, in ``/proc``, and elsewhere it is not measured. timm checks no
hash; from the cache this package checks all of it.
"""

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from effnet_zoo import atomic_io
from effnet_zoo.bench.processes import answer_of, python
from effnet_zoo.bench.referee import Sample, check_equal, hold_process_contest
from effnet_zoo.bench.results import BASELINE
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.layouts.keytable import State
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model

COMMIT = "0" * 39 + "1"

PLACES = ("file", "cache")

CHILD = """
import json, sys, time
who, where, name, place, size = sys.argv[1:]
import timm, torch
if who == "effnet_zoo":
    import effnet_zoo
def kilobytes(what):  # not getrusage's maximum, which a process inherits from the one that started it
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(what))
    except (OSError, StopIteration):
        return None
before = kilobytes("VmRSS")
where = {"pretrained_cfg_overlay": {"file": place}} if where == "file" else {"cache_dir": place}
start = time.perf_counter()
model = timm.create_model(name, pretrained=True, **where)
figures = {"seconds": time.perf_counter() - start}
most = kilobytes("VmHWM")
if most is not None and before is not None:
    figures["peak_over_weights"] = (most - before) * 1024 / int(size)
print(json.dumps([figures, float(model.classifier.bias.sum())]))
"""


def loading_cases(settings: Settings) -> Cases:
    """Yield every variant from every place."""
    for variant in settings.variants:
        for place in PLACES:
            yield f"{variant}, {place}", functools.partial(time_loading, variant, place, rounds=settings.rounds)


def time_loading(variant: str, place: str, *, rounds: int) -> dict[str, Any]:
    """Time this package and timm; a contestant that loads other weights is refused.

    Args:
        variant: The timm name.
        place: ``file``, a local file, or ``cache``, the Hub's cache.
        rounds: Loads that count.
    """
    model = catalogue.find_variant(variant)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = write_checkpoint(model, _any_weights(model), Path(folder))
        size = path.stat().st_size
        source = path if place == "file" else Path(folder, "hub")
        calls = {
            who: functools.partial(_load, who, place, f"{name}.{model.default.tag}", str(source), str(size))
            for who, name in (("timm", model.upstream), ("effnet_zoo", model.name))
        }
        compare = functools.partial(check_equal, "loaded other weights than the first contestant")
        outcome = hold_process_contest(calls, compare, rounds=rounds)
    case = {"variant": model.name, "place": place, "bytes": size}
    return outcome.as_data(case, outcome.ratios({BASELINE: BASELINE}))


def _any_weights(model: Model) -> State:
    """Return random weights between 0 and 1, as a negative variance would be refused."""
    draw = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(tensor.shape, generator=draw) if tensor.is_floating_point() else torch.tensor(0)
        for key, tensor in EfficientNet(model.spec, device="meta").state_dict().items()
    }


def write_checkpoint(model: Model, state: State, folder: Path) -> Path:
    """Write a file of weights, and beside it a Hub cache ``hub`` in which it is the model's default checkpoint."""
    path = folder / f"{model.name}.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    digest = atomic_io.sha256(path)
    repository = folder / "hub" / f"models--{str(model.default.hub_id).replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for place in (repository / "blobs", repository / "refs", snapshot):
        place.mkdir(parents=True)
    os.link(path, repository / "blobs" / digest)
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / digest)
    return path


def _load(*arguments: str) -> tuple[Sample, float]:
    figures, weights = json.loads(answer_of(python(CHILD, *arguments), {"HF_HUB_OFFLINE": "1"}).text)
    return figures, weights
