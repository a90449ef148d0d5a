"""From nothing to the first logits of a fresh process, and one photo classified by the command.

A process imports, loads a file of weights, builds an engine and runs it. Cold, the engines' cache is empty; warm,
another process has filled it. The time is what its user waits for, the interpreter and its imports included.

The command is compared with ``python -c "import torch"``, which every program that uses torch waits for.
"""

import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from effnet_zoo.bench.forward import engines
from effnet_zoo.bench.loading import write_checkpoint
from effnet_zoo.bench.networks import drawn_weights
from effnet_zoo.bench.processes import answer_of, own_bytecode, python
from effnet_zoo.bench.referee import Sample, check_equal, check_error, hold_process_contest
from effnet_zoo.bench.results import BASELINE
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.images.photos import write_jpegs
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.engine import TOLERANCE
from effnet_zoo.runtime.export import export
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

IMPORT_TORCH = "import torch"

PHOTO = {"width": 500, "height": 375}


def starting_cases(settings: Settings) -> Cases:
    """Yield every variant: a process to its logits, and a photo by the command."""
    for variant in settings.variants:
        size = settings.size_of(variant)
        backends = engines(compiled=settings.compiled)
        yield (
            f"{variant}, {size} px",
            functools.partial(time_starting, variant, size=size, rounds=settings.rounds, backends=backends),
        )
        yield f"{variant}, one photo", functools.partial(time_command, variant, rounds=settings.rounds)


def time_starting(variant: str, *, size: int, rounds: int, backends: Sequence[str]) -> dict[str, Any]:
    """Time timm, this package's network as it is, and each engine, cold and warm.

    Returns:
        Data whose results have timings ``cold`` and ``warm``, and the seconds of ``imports`` in them.
    """
    model = catalogue.find_variant(variant)
    tag = model.default.tag
    arguments = {"timm": (f"{model.upstream}.{tag}", ""), "effnet_zoo": (f"{model.name}.{tag}", "")}
    arguments |= {f"effnet_zoo engine {backend}": (f"{model.name}.{tag}", backend) for backend in backends}
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = Path(folder, "model.safetensors")
        save_file(drawn_weights(model.spec), path, metadata={"format": "pt"})
        calls = {
            who: functools.partial(_cold_and_warm, [name, str(path), str(size), backend])
            for who, (name, backend) in arguments.items()
        }
        outcome = hold_process_contest(calls, _compare_logits, rounds=rounds)
    ratios = {
        f"timm, {part}": outcome.ratios({BASELINE: BASELINE}, part).get(BASELINE, {}) for part in ("cold", "warm")
    }
    return outcome.as_data({"variant": model.name, "size": size}, ratios)


def _compare_logits(logits: Tensor, expected: Tensor) -> dict[str, Any]:
    check_error("logits", logits, expected, TOLERANCE["float32"])
    return {}


def _cold_and_warm(arguments: Sequence[str]) -> tuple[Sample, Tensor]:
    """Return the figures of two processes, of which the second finds the caches of the first, and both logits."""
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as home:
        caches = {"EFFNET_ZOO_HOME": home, "TORCHINDUCTOR_CACHE_DIR": f"{home}/inductor", "HF_HUB_OFFLINE": "1"}
        cold, warm = (answer_of(python(CHILD, *arguments), caches) for _ in range(2))
    found = [json.loads(one.text) for one in (cold, warm)]
    imports = statistics.median(one["imports"] for one in found)
    figures = {"cold": cold.first_line, "warm": warm.first_line, "imports": imports}
    return figures, torch.tensor([one["logits"] for one in found])


def time_command(variant: str, *, rounds: int) -> dict[str, Any]:
    """Time ``effnet-zoo predict photo.jpg`` with a checkpoint and with an ONNX file, beside ``import torch``.

    Weights are drawn. The checkpoint is in the Hub's cache, and no network is used.

    Returns:
        Data whose results have ``seconds`` until the process has ended, and ``of_import_torch``, their ratio to those
        of ``import torch``.
    """
    model = catalogue.find_variant(variant)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        folder = Path(place)
        write_checkpoint(model, drawn_weights(model.spec), folder)
        (photo,) = write_jpegs(folder, **PHOTO, count=1)
        bytecode = own_bytecode(str(folder / "bytecode"))
        environment = {"HF_HUB_CACHE": str(folder / "hub"), "EFFNET_ZOO_HOME": place, "HF_HUB_OFFLINE": "1", **bytecode}

        def classify(name: str) -> tuple[Sample, int]:
            arguments = ["predict", str(photo), "--model", name, "--topk", "1", "--json"]
            answer = answer_of([*command(), *arguments], environment)
            return {"seconds": answer.seconds}, json.loads(answer.text)[0]["classes"][0]["index"]

        @functools.cache
        def exported() -> str:
            network = EfficientNet.from_name(model.name).eval()
            network.load_state_dict(drawn_weights(model.spec))
            return str(export(network, folder / "model.onnx").path)

        def import_torch() -> tuple[Sample, None]:
            return {"seconds": answer_of([sys.executable, "-c", IMPORT_TORCH], bytecode).seconds}, None

        calls: dict[str, Callable[[], tuple[Sample, int | None]]] = {
            "effnet_zoo predict": lambda: classify(model.default.name),
            "effnet_zoo predict, ONNX": lambda: classify(exported()),
            IMPORT_TORCH: import_torch,
        }
        compare = functools.partial(check_equal, "another class than the first contestant's")
        outcome = hold_process_contest(calls, compare, rounds=rounds)
    for result in outcome.results.values() if IMPORT_TORCH in outcome.results else ():
        result["of_import_torch"] = result["seconds"] / outcome.results[IMPORT_TORCH]["seconds"]
    return outcome.as_data({"variant": model.name, "photo": PHOTO})


def command() -> list[str]:
    """Return how the ``effnet-zoo`` command is started: the script beside this interpreter, or else the module."""
    names = ("effnet-zoo", "effnet-zoo.exe")
    scripts = [Path(sys.executable).parent / name for name in names]
    found = next((str(path) for path in scripts if path.is_file()), None)
    return [found] if found else [sys.executable, "-c", "import _effnet_zoo_command as c; c.main()"]
