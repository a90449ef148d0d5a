"""What fresh processes take: an import, weights into a model, the first logits, and one photo by the command.

Each contestant is a process of its own: no contestant finds the memory of another warm.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from effnet_zoo import atomic_io
from effnet_zoo.bench.forward import engines
from effnet_zoo.bench.networks import drawn_weights
from effnet_zoo.bench.referee import Sample, check_equal, check_error, hold_process_contest
from effnet_zoo.bench.results import BASELINE, OURS, Data
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.errors import EngineError, MissingExtraError
from effnet_zoo.images.photos import write_jpegs
from effnet_zoo.layouts.keytable import State
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.engine import TOLERANCE
from effnet_zoo.runtime.export import export
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model

LIMIT = 900.0  # seconds that a process may take: a cold start that compiles takes some two minutes on two cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The output of a process, when it started, in seconds as `time.time` gives them, and how many it took."""

    text: str
    start: float
    seconds: float


def answer_of(command: Sequence[str], environment: Mapping[str, str] | None = None, limit: float = LIMIT) -> Answer:
    """Run a command in a fresh process, with variables besides this process's, for `limit` seconds at most.

    If it fails, the last line of its traceback becomes a MissingExtraError or an EngineError.
    """
    variables = {**os.environ, **(environment or {})}
    start = time.time()
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, errors="replace", timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"the process had not ended after {limit:g} seconds") from None
    seconds = time.time() - start
    if done.returncode:
        last = [f"the process ended with status {done.returncode}", *done.stderr.strip().splitlines()][-1]
        kind = last.partition(":")[0].rpartition(".")[2]
        absent = kind in ("ImportError", "ModuleNotFoundError", "MissingExtraError")
        raise (MissingExtraError if absent else EngineError)(last)
    return Answer(text=done.stdout, start=start, seconds=seconds)


def python(program: str, *arguments: str) -> list[str]:
    """Return the command line that runs Python code with arguments in this interpreter."""
    return [sys.executable, "-W", "ignore", "-c", program, *arguments]


def own_bytecode(folder: str) -> dict[str, str]:
    """Return variables with which a process keeps its bytecode in a folder: an editable install may have none."""
    return {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}


CHILD = """
import json, sys, time
start = time.perf_counter()
name, where, place, size, backend = sys.argv[1:]
import timm, torch
if name.startswith("effnet_zoo"):
    import effnet_zoo
imported = time.perf_counter()
def kilobytes(what):  # not getrusage's maximum, which a process inherits from the one that started it
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(what))
    except (OSError, StopIteration):
        return None
before = kilobytes("VmRSS")
source = {"pretrained_cfg_overlay": {"file": place}} if where == "file" else {"cache_dir": place}
begin = time.perf_counter()
model = timm.create_model(name, pretrained=True, **source)
answer = {"imports": imported - start, "loading": time.perf_counter() - begin}
most = kilobytes("VmHWM")
if most is not None and before is not None:
    answer["kilobytes"] = most - before
if int(size):
    run = model.eval()
    if backend:
        from effnet_zoo.runtime.engine import engine
        run = engine(model, backend=backend, batch=1, size=int(size))
    images = torch.randn(1, 3, int(size), int(size), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        answer["logits"] = run(images)[0].tolist()
answer["end"] = time.time()
print(json.dumps({**answer, "weights": float(model.classifier.bias.sum())}))
"""
"""Import, load weights and, with a size, run an image: the name, where the weights are, the size, and the engine."""


# What `import effnet_zoo` adds to `import timm`.

STATEMENTS = {"timm": "import timm", "timm and effnet_zoo": "import timm, effnet_zoo"}
IMPORTING = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def import_cases(settings: Settings) -> Cases:
    yield "timm", functools.partial(time_imports, rounds=settings.rounds)


def time_imports(*, rounds: int) -> Data:
    """Time the imports, with bytecode from the first round, which does not count."""

    def run(statement: str) -> Sample:
        return {"seconds": float(answer_of(python(IMPORTING.format(statement)), own_bytecode(folder)).text)}, None

    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        calls = {name: functools.partial(run, statement) for name, statement in STATEMENTS.items()}
        compare = functools.partial(check_equal, "another output than the first contestant's")
        return hold_process_contest({}, calls, compare, rounds=rounds)


# Weights from a local file, or from the Hub's cache, into a model.

PLACES = ("file", "cache")


def loading_cases(settings: Settings) -> Cases:
    for variant in settings.variants:
        for place in PLACES:
            yield f"{variant}, {place}", functools.partial(time_loading, variant, place, rounds=settings.rounds)


def time_loading(variant: str, place: str, *, rounds: int) -> Data:
    """Time `create_model` alone, from one of `PLACES`; a contestant that loads other weights is refused.

    The file is in the operating system's cache. timm checks no hash; from the Hub's cache this package checks all of
    the file. Memory is the most that the process holds, less what it held before; it is measured on Linux only.
    """
    model = catalogue.find_variant(variant)
    draw = torch.Generator().manual_seed(0)
    state = {
        # Between 0 and 1, as a negative variance would be refused.
        key: torch.rand(tensor.shape, generator=draw) if tensor.is_floating_point() else torch.tensor(0)
        for key, tensor in EfficientNet(model.spec, device="meta").state_dict().items()
    }

    def load(name: str) -> Sample:
        command = python(CHILD, f"{name}.{model.default.tag}", place, str(source), "0", "")
        found = json.loads(answer_of(command, {"HF_HUB_OFFLINE": "1"}).text)
        memory = {"peak_over_weights": found["kilobytes"] * 1024 / size} if "kilobytes" in found else {}
        return {"seconds": found["loading"], **memory}, found["weights"]

    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = write_checkpoint(model, state, Path(folder))
        size = path.stat().st_size
        source = path if place == "file" else Path(folder, "hub")
        case = {"variant": model.name, "place": place, "bytes": size}
        calls = {BASELINE: lambda: load(model.upstream), OURS: lambda: load(model.name)}
        compare = functools.partial(check_equal, "loaded other weights than the first contestant")
        return hold_process_contest(case, calls, compare, rounds=rounds)


def write_checkpoint(model: Model, state: State, folder: Path) -> Path:
    """Write a file of weights, and beside it a Hub cache ``hub`` in which it is the model's default checkpoint."""
    path, commit = folder / f"{model.name}.safetensors", f"{1:040}"
    save_file(state, path, metadata={"format": "pt"})
    repository = folder / "hub" / f"models--{str(model.default.hub_id).replace('/', '--')}"
    blob, snapshot = repository / "blobs" / atomic_io.sha256(path), repository / "snapshots" / commit
    for place in (blob.parent, repository / "refs", snapshot):
        place.mkdir(parents=True)
    os.link(path, blob)
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "model.safetensors").symlink_to(blob)
    return path


# From nothing to the first logits, and one photo by the command.

COMMAND = "from _effnet_zoo_command import main; main()"  # what the script effnet-zoo runs
IMPORT_TORCH = "import torch"  # what every program that uses torch waits for
PHOTO = {"width": 500, "height": 375}


def starting_cases(settings: Settings) -> Cases:
    for variant in settings.variants:
        size, backends = settings.size_of(variant), engines(compiled=settings.compiled)
        start = functools.partial(time_starting, variant, size=size, rounds=settings.rounds, backends=backends)
        yield f"{variant}, {size} px", start
        yield f"{variant}, one photo", functools.partial(time_command, variant, rounds=settings.rounds)


def time_starting(variant: str, *, size: int, rounds: int, backends: Sequence[str]) -> Data:
    """Time timm, this package's network as it is, and each engine, cold and warm.

    Cold, the engines' cache is empty; warm, another process has filled it. The time is what a user waits for: the
    interpreter, its ``imports``, loading a file of weights, building an engine and running it.
    """
    model = catalogue.find_variant(variant)
    theirs, ours = (f"{name}.{model.default.tag}" for name in (model.upstream, model.name))
    who = {BASELINE: (theirs, ""), OURS: (ours, "")}
    who |= {f"{OURS} engine {backend}": (ours, backend) for backend in backends}
    compare = functools.partial(check_error, "logits", TOLERANCE["float32"])
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = write_checkpoint(model, drawn_weights(model.spec), Path(folder))

        def cold_and_warm(name: str, backend: str) -> Sample:
            """Start two processes, of which the second finds the caches of the first, and return the logits of both."""
            with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as home:
                caches = {"EFFNET_ZOO_HOME": home, "TORCHINDUCTOR_CACHE_DIR": f"{home}/inductor", "HF_HUB_OFFLINE": "1"}
                command = python(CHILD, name, "file", str(path), str(size), backend)
                answers = [answer_of(command, caches) for _ in range(2)]
            found = [json.loads(answer.text) for answer in answers]
            cold, warm = (one["end"] - answer.start for one, answer in zip(found, answers, strict=True))
            imports = statistics.median(one["imports"] for one in found)
            return {"cold": cold, "warm": warm, "imports": imports}, torch.tensor([one["logits"] for one in found])

        calls = {name: functools.partial(cold_and_warm, *how) for name, how in who.items()}
        return hold_process_contest({"variant": model.name, "size": size}, calls, compare, rounds=rounds)


def time_command(variant: str, *, rounds: int) -> Data:
    """Time ``effnet-zoo predict photo.jpg`` with a checkpoint and with an ONNX file, beside ``import torch``.

    Weights are drawn. The checkpoint is in the Hub's cache, and no network is used. Results have ``seconds`` until the
    process has ended, and ``of_import_torch``, their ratio to those of ``import torch``.
    """
    model = catalogue.find_variant(variant)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as place:
        folder = Path(place)
        write_checkpoint(model, drawn_weights(model.spec), folder)
        (photo,) = write_jpegs(folder, **PHOTO, count=1)
        bytecode = own_bytecode(str(folder / "bytecode"))
        environment = {"HF_HUB_CACHE": str(folder / "hub"), "EFFNET_ZOO_HOME": place, "HF_HUB_OFFLINE": "1", **bytecode}

        def classify(name: str) -> Sample:
            arguments = ["predict", str(photo), "--model", name, "--topk", "1", "--json"]
            answer = answer_of(python(COMMAND, *arguments), environment)
            return {"seconds": answer.seconds}, json.loads(answer.text)[0]["classes"][0]["index"]

        @functools.cache
        def exported() -> str:
            network = EfficientNet.from_name(model.name).eval()
            network.load_state_dict(drawn_weights(model.spec))
            return str(export(network, folder / "model.onnx").path)

        calls: dict[str, Callable[[], Sample]] = {
            "effnet_zoo predict": lambda: classify(model.default.name),
            "effnet_zoo predict, ONNX": lambda: classify(exported()),
            IMPORT_TORCH: lambda: ({"seconds": answer_of(python(IMPORT_TORCH), bytecode).seconds}, None),
        }
        compare = functools.partial(check_equal, "another class than the first contestant's")
        data = hold_process_contest({"variant": model.name, "photo": PHOTO}, calls, compare, rounds=rounds)
    results = data["results"]
    for result in results.values() if IMPORT_TORCH in results else ():
        result["of_import_torch"] = result["seconds"] / results[IMPORT_TORCH]["seconds"]
    return data
