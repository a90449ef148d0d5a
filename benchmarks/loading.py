"""How long weights take from a local file, or from the cache, into a model: this package beside timm.

    python benchmarks/loading.py effnet_zoo_l2 effnet_zoo_b5 effnet_zoo_b0 --rounds 5 --out benchmarks/loading.json

Each load is a process of its own, the contestants in turn, so that none finds the other's memory warm; the file is in
the operating system's cache for all. Time is that of `create_model` alone, after the imports. Memory is what the
process holds at its most, less what it held before. timm checks no hash; from the cache this package checks all of it.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import timm
import torch
from safetensors.torch import save_file

import effnet_zoo
from effnet_zoo import EfficientNet, catalog

COMMIT = "0" * 39 + "1"

CHILD = """
import json, sys, time
kind, name, place = sys.argv[1:]
import timm, torch
if kind.startswith("effnet_zoo"):
    import effnet_zoo
def kilobytes(what):  # not getrusage's maximum, which a process inherits from the one that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
before = kilobytes("VmRSS")
where = {"pretrained_cfg_overlay": {"file": place}} if kind.endswith("file") else {"cache_dir": place}
start = time.perf_counter()
model = timm.create_model(name, pretrained=True, **where)
seconds = time.perf_counter() - start
peak = (kilobytes("VmHWM") - before) * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "sum": float(model.classifier.bias.sum())}))
"""


def write_weights(name: str, folder: Path) -> tuple[Path, int]:
    """A file of random weights for a model, its size, and a Hub cache in `folder` that has it."""
    model = EfficientNet.from_name(name, device="meta")
    draw = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(tensor.shape, generator=draw) if tensor.is_floating_point() else torch.tensor(0)
        for key, tensor in model.state_dict().items()
    }
    path = folder / f"{name}.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    repository = folder / "hub" / f"models--{str(catalog.find(name)[1].hub_id).replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True)
    os.link(path, repository / "blobs" / digest)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / digest)
    return path, path.stat().st_size


def load(kind: str, name: str, place: Path) -> dict[str, Any]:
    """One load in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, kind, name, str(place)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(out.stdout)
    return answer


def measure(name: str, rounds: int) -> dict[str, Any]:
    """All contestants with one model, in turn."""
    model = catalog.find_variant(name)
    with tempfile.TemporaryDirectory() as folder:
        path, size = write_weights(name, Path(folder))
        tag = model.default.tag
        contestants = {
            "timm file": (f"{model.upstream}.{tag}", path),
            "effnet_zoo file": (f"{name}.{tag}", path),
            "timm cache": (f"{model.upstream}.{tag}", Path(folder, "hub")),
            "effnet_zoo cache": (f"{name}.{tag}", Path(folder, "hub")),
        }
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in contestants}
        for _ in range(rounds + 1):
            for kind, (theirs, place) in contestants.items():
                runs[kind].append(load(kind, theirs, place))
    assert len({run["sum"] for kind in runs for run in runs[kind]}) == 1, "they did not load the same weights"
    medians = {
        kind: {
            "seconds": statistics.median(run["seconds"] for run in results[1:]),  # the first fills the caches
            "peak_over_weights": statistics.median(run["peak"] for run in results[1:]) / size,
        }
        for kind, results in runs.items()
    }
    return {
        "model": name,
        "bytes": size,
        "medians": medians,
        "times_faster": {
            place: medians[f"timm {place}"]["seconds"] / medians[f"effnet_zoo {place}"]["seconds"]
            for place in ("file", "cache")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = {
        "versions": {
            "python": platform.python_version(),
            **{
                module.__name__: module.__version__
                for module in (effnet_zoo, timm, torch, safetensors, huggingface_hub)
            },
        },
        "processors": os.cpu_count(),
        "rounds": arguments.rounds,
        "results": [],
    }
    for name in arguments.models:
        result = measure(name, arguments.rounds)
        report["results"].append(result)
        print(f"{name}, {result['bytes'] / 1e6:.0f} MB", flush=True)
        for kind, median in result["medians"].items():
            print(f"  {kind:17} {median['seconds']:7.3f} s, peak {median['peak_over_weights']:.2f} x the weights")
        for place, times in result["times_faster"].items():
            print(f"  from the {place}: {times:.1f} times faster than timm")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
