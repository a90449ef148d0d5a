"""Weight files into tensors by name. No code of a file runs, and the wrappers of training scripts are taken off."""

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from effnet_zoo.atomic_io import file_errors, open_regular
from effnet_zoo.checkpoints.pickle_names import PickleError
from effnet_zoo.checkpoints.pickles import read_pickle
from effnet_zoo.errors import FileError, WeightsError, first_line, quoted
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.keytable import State

MAX_DEPTH = 4
"""Levels of dicts that are searched. Training scripts nest two or three."""

_AVERAGES_COUNTER = "n_averaged"
"""The last part of the name of the tensor that torch's AveragedModel adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """The content of a weight file.

    Attributes:
        state: Tensors by name, without wrappers and prefixes; those of safetensors are on disk until they are used.
        source: Where it comes from, for errors: a file's path.
        notes: What was unwrapped, chosen or stripped on the way, in words.
        dropped: Names left out on purpose, each with the reason.
        stamp: The file's device, inode, size and time of change when it was opened, which tell it from any other file
            and from itself after it was written to; None for a state dict in memory.
    """

    state: State
    source: str
    notes: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    stamp: tuple[int, ...] | None = None


def read_weights(path: Path, *, ema: bool = True) -> StateFile:
    """Read the tensors of a ``.safetensors`` file or of a pickle of plain tensors. The content decides, not the suffix.

    With `ema`, the moving average is taken where the file has both it and what it averages. A file that would run code
    or holds several models is a WeightsError.
    """
    try:
        with open_regular(path) as file, file_errors(path):
            status = os.fstat(file.fileno())
            start = file.read(9)
            file.seek(0)
            # A pickle is not mapped: torch.save writes over a file in place, and would write over the model's memory.
            content = load_file(path) if start[8:9] == b"{" else read_pickle(file, status.st_size)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {first_line(error)}") from error
    except FileError as error:
        raise WeightsError(f"{error}: expected a weight file") from None
    except PickleError as error:
        expected = "a whole safetensors file nor one of plain tensors that can be read without running code"
        raise WeightsError(f"{path} is neither {expected}: {error}") from error.__cause__
    found = unwrap(content, str(path), ema=ema)
    for key, tensor in found.state.items():
        if tensor.is_meta or tensor.nbytes > status.st_size:  # a pickle can give any shape by strides of 0
            shape = tuple(tensor.shape)
            raise WeightsError(f"{path}: {key} has the shape {shape}, but its values are not all in the file")
    return replace(found, stamp=(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors to a ``.safetensors`` file, with the metadata that transformers asks for."""
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    with file_errors(path):
        path.touch()
        mode = path.stat().st_mode  # safetensors replaces the file by one that only its owner may read
        try:
            save_file(tensors, path, metadata={"format": "pt"})
        except SafetensorError as error:  # the only error that it raises on a full disk
            raise FileError(f"{path}: cannot be written: {first_line(error)}: is the disk full?") from error
        path.chmod(mode)


def fingerprint(state: State) -> str:
    """Return the SHA-256, in hex, of names, dtypes, shapes and values. Files and memory layouts do not change it."""
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unwrap(content: Any, source: str, *, ema: bool = True) -> StateFile:
    """Take the state dict out of a training checkpoint, and the prefixes of wrapping modules off its keys.

    If there is a model and its exponential moving average, the average is taken: training scripts evaluate it. Several
    state dicts and no way to choose are a WeightsError.
    """
    found = _states(content)
    # Optimizers and metrics keep dicts of tensors too.
    found = {name: state for name, state in found.items() if _prefixes(state)} or found
    if not found:
        raise WeightsError(f"{source}: expected a flat dict of tensors, a state_dict, or a checkpoint with one in it")
    name = _chosen(list(found), "state dicts", source, ema=ema)
    notes = (f"took {_described(name, found)}",) if name else ()  # without a name, it is the content itself
    return _stripped(found[name], notes, source, ema=ema)


def _is_state(value: Any) -> bool:
    items = value.items() if isinstance(value, Mapping) else ()
    return bool(items) and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in items)


def _states(content: Any) -> dict[str, State]:
    """Return the dicts of tensors in a dict of dicts, by the keys that lead to each. One may be there many times."""
    found: dict[str, State] = {}
    seen: set[int] = set()
    queue: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    while queue:
        path, value = queue.popleft()
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        if _is_state(value):
            found[".".join(path)] = dict(value)
        elif len(path) < MAX_DEPTH:
            queue.extend(((*path, str(key)), item) for key, item in value.items())
    return found


def _stripped(state: State, notes: tuple[str, ...], source: str, *, ema: bool) -> StateFile:
    prefixes = _prefixes(state)
    if not prefixes or prefixes == [""]:
        return StateFile(state=state, source=source, notes=notes)
    prefix = _chosen(prefixes, "models", source, ema=ema)
    # One prefix may begin with another: a key belongs to the longest.
    longest_first = sorted(prefixes, key=len, reverse=True)
    kept: State = {}
    dropped: dict[str, str] = {}
    for key, tensor in state.items():
        owner = next((one for one in longest_first if key.startswith(one)), None)
        # Whatever else is in the file is not left out silently: it stays, and the loader names it as left over.
        name = key.removeprefix(prefix) if owner == prefix else key
        if key.rpartition(".")[2] == _AVERAGES_COUNTER:
            dropped[key] = "a counter of torch's AveragedModel"
        elif owner is not None and owner != prefix:
            dropped[key] = f"under {quoted(owner)}"
        elif name in kept:
            both = f"{quoted(prefix + name)} and {quoted(name)}"
            raise WeightsError(f"{source} has both {both}: save the model you mean alone")
        else:
            kept[name] = tensor
    notes = (*notes, f"stripped {_described(prefix, prefixes)}")
    return StateFile(state=kept, source=source, notes=notes, dropped=dropped)


def _prefixes(state: State) -> list[str]:
    """Return what stands before each first convolution: one prefix for every model that a state dict has."""
    stems = {layout.stem_key for layout in LAYOUTS.values()}
    ends = [(key, stem) for key in state for stem in stems if f".{key}".endswith(f".{stem}")]
    return list(dict.fromkeys(key.removesuffix(stem) for key, stem in ends))


def _is_average(name: str) -> bool:
    return "ema" in re.split(r"[._]", name.lower())


def _chosen(names: list[str], what: str, source: str, *, ema: bool) -> str:
    candidates = [name for name in names if _is_average(name) == ema] if len(names) > 1 else names
    if len(candidates) != 1:
        expected = "expected one, or one of them an average named ema; save the one you mean alone"
        raise WeightsError(f"{source} holds several {what} ({', '.join(map(repr, names))}): {expected}")
    return candidates[0]


def _described(name: str, names: Iterable[str]) -> str:
    others = [repr(other) for other in names if other != name]
    average = " (moving average)" if _is_average(name) else ""
    return f"{quoted(name)}{average}" + (f", not {', '.join(others)}" if others else "")
