"""Work in a process of its own, for libraries that change the process they run in.

While `torch.export` runs, it replaces ``nn.Module.__call__`` and ``nn.Module.__getattr__`` and turns oneDNN off for
every thread; `torch.jit.script` keeps what it compiled until the process ends. A process that serves other models
must not do either, so a child does. It is given JSON and a safetensors file, and writes a file.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from effnet_zoo import documents
from effnet_zoo.errors import EffnetZooError, EngineError, first_line
from effnet_zoo.folding import optimize
from effnet_zoo.model import EfficientNet
from effnet_zoo.spec import ArchSpec

LIMIT = 3600.0
"""Seconds that a child may take. AOTInductor, the slowest, takes a minute for B0 on two cores."""

WEIGHTS, NETWORK = "weights.safetensors", "network.json"

_CHILD = """
import json, sys
request = json.loads(sys.stdin.readline())
sys.path[:] = request["path"]
from effnet_zoo.graphs.child import _work
_work(request)
"""
"""The path comes first: a child must import the same package as its parent, which may be a checkout."""


def in_child(function: Callable[..., None], arguments: Mapping[str, Any], *, what: str, limit: float = LIMIT) -> None:
    """Calls a function in a process of its own, and waits for its end.

    The child ends when this process ends, however that comes about. Its warnings and its output are not shown.

    Args:
        function: A function at the top of a module that the child can import.
        arguments: Its keywords, in JSON's types.
        what: What is being made, for errors: ``export to torch``.
        limit: Seconds it may take.

    Raises:
        EngineError: If the function raises, the process dies, or it takes longer. The message has the child's last
            line.
    """
    request = {
        "path": sys.path,
        "function": [function.__module__, function.__qualname__],
        "arguments": dict(arguments),
        "threads": torch.get_num_threads(),  # compiled code is for so many
    }
    command = [sys.executable, "-W", "ignore", "-c", _CHILD]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it died at once, which its status tells
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            process.wait(limit)
        except subprocess.TimeoutExpired:
            raise EngineError(f"{what}: not done after {limit:g} seconds, the limit: nothing was written") from None
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            status = process.returncode
            died = f"the process ended by signal {-status}" if status < 0 else f"the process ended with status {status}"
            raise EngineError(f"{what} failed: {lines[-1] if lines and status > 0 else died}: nothing was written")


def _work(request: Mapping[str, Any]) -> None:
    """Calls what a parent asked for, and ends the process; the last line it prints says why it failed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(request["threads"])
    module, name = request["function"]
    status = 0
    try:
        getattr(import_module(module), name)(**request["arguments"])
    except EffnetZooError as error:
        print(error, file=sys.stderr)  # noqa: T201  # what the parent reads
        status = 1
    except Exception as error:  # of a library's own kinds
        traceback.print_exc()
        print(first_line(error), file=sys.stderr)  # noqa: T201
        status = 1
    sys.stderr.flush()
    os._exit(status)  # what libraries print on their way out would come after the last line


def _end_with_parent() -> None:
    sys.stdin.read()  # ends when the parent closes its end, or dies
    os._exit(1)


def store(model: EfficientNet, folder: Path) -> None:
    """Writes a folded model into a folder, for `stored` in a child.

    Args:
        model: What `optimize` gave, on any device.
        folder: An empty folder.
    """
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    network = {
        "arch": model.arch.to_dict(),
        "num_classes": model.num_classes,
        "in_chans": model.in_chans,
        "global_pool": model.global_pool.pool_type,
        "output_stride": model.output_stride,
        "device": str(model.conv_stem.weight.device),
        "dtype": str(model.conv_stem.weight.dtype).removeprefix("torch."),
        "layers": str(model),
    }
    (folder / NETWORK).write_text(json.dumps(network), encoding="utf-8")


def stored(folder: Path) -> EfficientNet:
    """Reads the folded model that `store` wrote, contiguous, on the device it was on.

    Raises:
        EngineError: If its layers are not those that its specification says: somebody changed them, and a file made
            of the specification would compute something else.
    """
    network = documents.from_json((folder / NETWORK).read_bytes(), dict[str, Any], NETWORK, EngineError)
    dtype, layers = getattr(torch, network.pop("dtype")), network.pop("layers")
    device, arch = network.pop("device"), ArchSpec.from_dict(network.pop("arch"))
    model = optimize(EfficientNet(arch, **network), dtype)
    if str(model) != layers:
        mine, theirs = str(model).splitlines(), layers.splitlines()
        pairs = zip(mine, theirs, strict=False)
        expected, found = next((pair for pair in pairs if pair[0] != pair[1]), (mine[-1], theirs[-1]))
        raise EngineError(
            f"the model's layers are not those of its specification: found {found.strip()}, expected "
            f"{expected.strip()}: expected a model as this package builds it"
        )
    model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    return model.to(device).to(memory_format=torch.contiguous_format)
