"""From nothing to the first logits: a fresh process imports, loads a file of weights, builds an engine and runs it.

Cold, the engines' cache is empty; warm, another process has filled it. The time is what whoever starts the process
waits for, the interpreter and its imports included.
"""

import dataclasses
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from effnet_zoo.bench.contestants import BACKENDS, weights
from effnet_zoo.bench.processes import first_answer
from effnet_zoo.bench.timing import Timing, summary
from effnet_zoo.errors import EngineError
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.engine import TOLERANCE
from effnet_zoo.zoo import catalogue

CHILD = """
import json, sys, time
start = time.perf_counter()
name, weights, size, backend = sys.argv[1:]
import timm, torch
if name.startswith("effnet_zoo"):
    import effnet_zoo
imported = time.perf_counter() - start
model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": weights}).eval()
if backend:
    from effnet_zoo.runtime.engine import engine
    model = engine(model, backend=backend, batch=1, size=int(size))
images = torch.randn(1, 3, int(size), int(size), generator=torch.Generator().manual_seed(1))
with torch.inference_mode():
    logits = model(images)
print(json.dumps({"imports": imported, "logits": logits[0].tolist()}), flush=True)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One process: seconds to its logits, those of them that imports took, and the logits."""

    seconds: float
    imports: float
    logits: list[float]


def measure(
    name: str, *, size: int, rounds: int, compiled: bool = False, backends: tuple[str, ...] = BACKENDS
) -> dict[str, Any]:
    """Timm, our network run plainly, and each engine, cold and warm, in turn.

    Args:
        name: The variant.
        size: Height and width of the one image.
        rounds: Processes of each that count, after one each that fills the operating system's cache.
        compiled: Whether torch.compile's engine takes part.
        backends: Of the engines.

    Returns:
        As `forward.measure`, each result with ``cold`` and ``warm``, which are timings, and the ``imports`` of them.
    """
    model = catalogue.find_variant(name)
    own, upstream = f"{model.name}.{model.default.tag}", f"{model.upstream}.{model.default.tag}"
    everyone = {"timm": (upstream, ""), "effnet_zoo": (own, "")}
    chosen = (*backends, "inductor") if compiled else backends
    everyone |= {f"effnet_zoo engine {backend}": (own, backend) for backend in chosen}
    taken: dict[str, list[tuple[Start, Start]]] = {who: [] for who in everyone}
    absent: dict[str, str] = {}
    refused: dict[str, str] = {}
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        path = Path(place, "model.safetensors")
        save_file(weights(model.name), path, metadata={"format": "pt"})
        for _ in range(rounds + 1):
            order = [who for who in everyone if who not in absent and who not in refused]
            draw.shuffle(order)
            for who in order:
                theirs, backend = everyone[who]
                try:
                    taken[who].append(_cold_and_warm([theirs, str(path), str(size), backend]))
                except EngineError as error:
                    (absent if is_absence(str(error)) else refused)[who] = str(error)
    if taken["timm"]:
        expected = torch.tensor(taken["timm"][0][0].logits)
        for who, starts in taken.items():
            worst = max((_error(start, expected) for pair in starts for start in pair), default=0.0)
            if worst > TOLERANCE["float32"]:
                refused[who] = f"logits off by a relative {worst:.1e}, more than {TOLERANCE['float32']:.0e}"
    counted = {who: pairs[1:] for who, pairs in taken.items() if who not in absent and who not in refused}
    cold = {who: summary([pair[0].seconds for pair in pairs]) for who, pairs in counted.items()}
    warm = {who: summary([pair[1].seconds for pair in pairs]) for who, pairs in counted.items()}
    return {
        "case": {"variant": model.name, "size": size},
        "rounds": rounds,
        "results": {
            who: {
                "cold": dataclasses.asdict(cold[who]),
                "warm": dataclasses.asdict(warm[who]),
                "imports": statistics.median(start.imports for pair in pairs for start in pair),
            }
            for who, pairs in counted.items()
        },
        "ratios": {f"timm, {label}": _ratios(timings) for label, timings in (("cold", cold), ("warm", warm))},
        "absent": absent,
        "refused": refused,
        "notes": {},
    }


def is_absence(line: str) -> bool:
    """Whether the last line of a traceback says that something is not installed."""
    kind = line.partition(":")[0].rpartition(".")[2]
    return kind in ("ImportError", "ModuleNotFoundError", "MissingExtraError")


def _ratios(timings: dict[str, Timing]) -> dict[str, float]:
    if "timm" not in timings:
        return {}
    return {who: timings["timm"].seconds / timing.seconds for who, timing in timings.items()}


def _error(start: Start, expected: torch.Tensor) -> float:
    return relative_error(torch.tensor(start.logits), expected)


def _cold_and_warm(arguments: list[str]) -> tuple[Start, Start]:
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as home:
        caches = {"EFFNET_ZOO_HOME": home, "TORCHINDUCTOR_CACHE_DIR": f"{home}/inductor", "HF_HUB_OFFLINE": "1"}
        return _start(arguments, caches), _start(arguments, caches)


def _start(arguments: list[str], caches: dict[str, str]) -> Start:
    """Returns one process, timed until it has printed its logits.

    Raises:
        EngineError: If it did not, with the last line that it said.
    """
    seconds, line = first_answer(CHILD, arguments, caches)
    return Start(seconds=seconds, **json.loads(line))
