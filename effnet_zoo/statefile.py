"""Weight files into tensors by name: memory-mapped, never executed, out of whatever training scripts wrap them in."""

import re
import struct
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effnet_zoo.errors import WeightsError

State = dict[str, Tensor]

MAX_HEADER = 100_000_000
"""Bytes of a safetensors header at most, as in its reference implementation (safetensors/src/tensor.rs)."""

EMA_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
WRAPPERS = (*EMA_WRAPPERS, "state_dict", "model_state_dict", "model", "net", "network")
"""Where training scripts put a state dict, best first: an exponential moving average is what they evaluate."""

COUNTERS = {"n_averaged": "a counter of torch's AveragedModel"}

STEMS = (
    "conv_stem.weight",
    "_conv_stem.weight",
    "features.0.0.weight",
    "efficientnet.embeddings.convolution.weight",
)
"""The first convolution in every layout that PyTorch files come in: what stands before it is a prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """What a file holds.

    Attributes:
        state: Tensors by name, without wrappers and prefixes; on disk until they are used.
        notes: What was unwrapped, chosen or stripped on the way, in words.
        dropped: Names left out on purpose, each with the reason.
    """

    state: State
    notes: tuple[str, ...] = ()
    dropped: Mapping[str, str]


def read(path: Path, *, ema: bool = True) -> StateFile:
    """The tensors of a ``.safetensors`` file or of a pickle of nothing but tensors, by content and not by suffix.

    Args:
        path: The file.
        ema: Take the moving average where the file has both it and what it averages.

    Raises:
        WeightsError: If the file is neither, is damaged, would run code, or holds several models.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        content = _read_safetensors(path, start) if start[8:9] == b"{" else _read_pickle(path)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such weight file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    return unwrap(content, str(path), ema=ema)


def unwrap(content: Any, source: str, *, ema: bool = True) -> StateFile:
    """A state dict out of a training checkpoint, and its keys without the prefixes of wrapping modules.

    Raises:
        WeightsError: If there is none, or several between which nothing decides.
    """
    state, notes = _unwrapped(content, source, ema=ema)
    return _stripped(state, notes, source, ema=ema)


def _read_safetensors(path: Path, start: bytes) -> State:
    (header,) = struct.unpack("<Q", start[:8])
    size = path.stat().st_size
    if header > min(size - 8, MAX_HEADER):
        raise WeightsError(
            f"{path} is not a whole safetensors file: its header is said to have {header} bytes, the file has {size}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _refuse_bomb(path)
        with torch.serialization.safe_globals([Namespace]):  # timm's checkpoints hold their command line in one
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except WeightsError:
        raise
    except Exception as error:  # torch.load raises whatever the zip, the unpickler or a tensor raises
        raise WeightsError(
            f"{path} is neither a whole safetensors file nor one of plain tensors that torch can read without running "
            f"code: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Why torch would not read a file, without its advice to run what is in it."""
    if wanted := re.search(r"Unsupported (?:global|class|operand)[^:]*: (?:GLOBAL )?(\S+)", str(error)):
        return f"it asks for {wanted[1]}"
    line = next(iter(str(error).strip().splitlines()), "")
    return type(error).__name__ if not line or "weights_only" in line else line


def _refuse_bomb(path: Path) -> None:
    """An archive of torch is never compressed: one that unpacks to more than itself was made to fill the memory."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise WeightsError(f"{path} unpacks to {unpacked} bytes, more than it has: torch does not write such files")


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
    )


def _unwrapped(content: Any, source: str, *, ema: bool) -> tuple[State, tuple[str, ...]]:
    if _is_state(content):
        return dict(content), ()
    found = {key: value for key, value in content.items() if _is_state(value)} if isinstance(content, Mapping) else {}
    for key in WRAPPERS if ema else (*WRAPPERS[len(EMA_WRAPPERS) :], *EMA_WRAPPERS):
        if key in found:
            others = ", ".join(repr(other) for other in found if other != key)
            note = f"took {key!r}" + (" (moving average)" if key in EMA_WRAPPERS else "")
            return dict(found[key]), (note + (f", not {others}" if others else ""),)
    if len(found) == 1:
        ((key, state),) = found.items()
        return dict(state), (f"took {key!r}",)
    if found:
        raise WeightsError(
            f"{source} holds several state dicts ({', '.join(map(repr, found))}): expected one; save the one you mean "
            "alone"
        )
    raise WeightsError(f"{source}: expected a flat dict of tensors, a state_dict, or a checkpoint with one in it")


def _stripped(state: State, notes: tuple[str, ...], source: str, *, ema: bool) -> StateFile:
    prefixes = list(dict.fromkeys(key.removesuffix(stem) for key in state for stem in STEMS if _ends(key, stem)))
    if "" in prefixes or not prefixes:  # bare keys win: what has a prefix beside them is part of something else
        return StateFile(state=state, notes=notes, dropped={})
    prefix = _chosen(prefixes, source, ema=ema)
    kept = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    others = [other for other in prefixes if other != prefix]
    left = {key: f"under {other!r}" for key in state for other in others if key.startswith(other)}
    left |= {key: reason for key, reason in COUNTERS.items() if key in state}
    # Whatever else is in the file is not left out silently: it stays, and the loader names it as left over.
    rest = {key: tensor for key, tensor in state.items() if not key.startswith(prefix) and key not in left}
    note = f"stripped {prefix!r}" + (f", not {', '.join(map(repr, others))}" if others else "")
    return StateFile(state={**kept, **rest}, notes=(*notes, note), dropped=left)


def _ends(key: str, stem: str) -> bool:
    return key == stem or key.endswith(f".{stem}")


def _chosen(prefixes: list[str], source: str, *, ema: bool) -> str:
    wanted = [prefix for prefix in prefixes if ("ema" in prefix.lower()) == ema] if len(prefixes) > 1 else prefixes
    if len(wanted) != 1:
        raise WeightsError(
            f"{source} holds several models ({', '.join(map(repr, prefixes))}): expected one, or one of them an "
            "average named ema; save the one you mean alone"
        )
    return wanted[0]
