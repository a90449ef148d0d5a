"""Open a file of Keras, which is an HDF5 file or an archive with one in it, and read its data sets within limits."""

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from effnet_zoo.atomic_io import open_regular
from effnet_zoo.documents import from_plain
from effnet_zoo.errors import FileError, MissingExtraError, WeightsError
from effnet_zoo.layouts.keytable import State

Dataset = Any
"""An h5py.Dataset: h5py has no types."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file."""

WEIGHTS, CONFIGURATION = "model.weights.h5", "config.json"
"""The members of a ``.keras`` archive that are read."""

MAX_BYTES = 2 << 30
"""Bytes of all tensors of a file together; the largest network, V2 L, has 0.9 GiB in float64."""

MAX_CONFIGURATION = 32 << 20
"""Bytes of a configuration; V2 L's has 1 MB."""

MAX_ENTRIES = 100_000
"""Entries of an HDF5 file; V2 L saved with an optimizer of three slots a weight has some 6,000."""

DEEPEST_GROUP = 64
"""Groups inside groups; a network five models deep has 17. A group can hold itself."""

MAX_EXPANSION = 20
"""How many times its own size a file may unpack to. Keras does not compress, and weights hardly can be."""

WALK_SECONDS = 120.0
"""Seconds that a walk through an HDF5 file may take; V2 L's takes one, most of it to import h5py."""

WALK_BYTES = 4 << 30
"""Bytes of address space for a walk; h5py takes under 1 GiB, and no value of a tensor is read."""

WALK = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
except (ImportError, ValueError, OSError):
    pass  # a system without that limit
import h5py

def visit(name, item):
    list(item.attrs.items())

with h5py.File(sys.argv[1], "r") as file:
    visit("", file)
    file.visititems(visit)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A model or a layer as a configuration declares it, and the folder of its variables in Keras 3's files.

    In Keras 3 an operation that is no layer has its name here, outside its ``config``.
    """

    class_name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    compile_config: dict[str, Any] | None = None
    folder: str = ""


def import_h5py() -> ModuleType:
    """Return h5py. Raise MissingExtraError if it is not installed."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            "Keras' files need h5py, which is not installed: pip install 'effnet-zoo[keras]'"
        ) from None
    return h5py


def is_keras_file(path: Path) -> bool:
    """Return whether a file is HDF5, or an archive with a Keras model in it. False if it cannot be read."""
    try:
        with open_regular(path) as file:
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            with zipfile.ZipFile(file) as archive:
                return WEIGHTS in archive.namelist()
    except (FileError, OSError, zipfile.BadZipFile):
        return False


def check_in_child_process(path: Path) -> None:
    """Walk through an HDF5 file in another process, because the HDF5 library crashes on some damaged files.

    The checksums of an archive show damage without a walk.
    """
    if not importlib.util.find_spec("h5py") or _is_archive(path):
        return
    command = [sys.executable, "-W", "ignore", "-c", WALK, str(path), str(WALK_BYTES)]
    try:
        walk = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WALK_SECONDS)
    except subprocess.TimeoutExpired:
        raise WeightsError(
            f"{path}: reading it takes more than {WALK_SECONDS:g} s: expected a file of Keras; download it again"
        ) from None
    if walk.returncode:
        lines = walk.stderr.strip().splitlines() or ["no reason given"]
        reason = "reading it crashes HDF5" if walk.returncode < 0 else lines[-1]
        raise WeightsError(f"{path} is not a whole HDF5 file: {reason}; save or download it again")


@contextmanager
def opened_hdf5(path: Path) -> Iterator[tuple[Any, Declaration | None]]:
    """Yield the h5py.File of a file of Keras, and the model that it declares: None in a file of weights alone."""
    h5py = import_h5py()
    if _is_archive(path):
        with zipfile.ZipFile(path) as archive, TemporaryFile() as unpacked:
            model = _declaration(_member(archive, CONFIGURATION, MAX_CONFIGURATION).read())
            shutil.copyfileobj(_member(archive, WEIGHTS, MAX_EXPANSION * path.stat().st_size), unpacked)
            with h5py.File(unpacked, "r") as hdf5:
                yield hdf5, model
    else:
        with h5py.File(path, "r") as hdf5:
            model, training = (hdf5.attrs.get(name) for name in ("model_config", "training_config"))
            yield hdf5, _declaration(model, training) if model else None


def _is_archive(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(2) == b"PK"


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> IO[bytes]:
    if name not in archive.namelist():
        raise WeightsError(f"an archive without {name}: expected what model.save('model.keras') writes")
    if (size := archive.getinfo(name).file_size) > limit:
        raise WeightsError(f"{name} in it would unpack to {size} bytes: expected {limit} at most")
    return archive.open(name)


def _declaration(model: str | bytes, training: str | bytes | None = None) -> Declaration:
    if (size := max(len(model), len(training or ""))) > MAX_CONFIGURATION:
        raise WeightsError(f"a configuration of {size} bytes: expected {MAX_CONFIGURATION} at most")
    # Python's own reader: Keras writes NaN and Infinity, which msgspec refuses.
    declared = json.loads(model)
    if training and isinstance(declared, dict):
        declared["compile_config"] = json.loads(training)
    return from_plain(declared, Declaration, "its configuration", WeightsError)


def datasets_of(hdf5: Any) -> Iterator[tuple[str, Dataset]]:
    """Yield every data set with its path. Refuse links, and more entries or levels than the limits allow."""
    h5py, waiting, entries = import_h5py(), [("", hdf5)], 0
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            entries += 1
            if entries > MAX_ENTRIES or prefix.count("/") > DEEPEST_GROUP:
                raise WeightsError(
                    f"more than {MAX_ENTRIES} entries, or {DEEPEST_GROUP} groups inside each other: expected the "
                    "layers of one model"
                )
            path = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise WeightsError(f"{path} is a link to elsewhere: expected the tensors themselves")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((f"{path}/", item))
            elif item.external or item.is_virtual:
                raise WeightsError(f"{path} is in another file: expected the tensors themselves")
            else:
                yield path, item


def tensors_of(datasets: Mapping[str, Dataset]) -> State:
    """Return the values of data sets. Refuse whole numbers, too many bytes, and values that the file does not hold."""
    for key, dataset in datasets.items():
        if dataset.nbytes > MAX_EXPANSION * dataset.id.get_storage_size():
            raise WeightsError(f"{key} has {dataset.nbytes} bytes, of which the file holds next to none: save it again")
    if (size := sum(dataset.nbytes for dataset in datasets.values())) > MAX_BYTES:
        raise WeightsError(f"{size} bytes of tensors: expected one network, {MAX_BYTES} at most")
    return {key: _tensor(key, dataset) for key, dataset in datasets.items()}


def _tensor(key: str, dataset: Dataset) -> Tensor:
    if dataset.dtype.kind == "V" and text_of(dataset.attrs.get("dtype")) == "bfloat16":
        return torch.from_numpy(dataset[()].view(np.int16)).view(torch.bfloat16)
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise WeightsError(f"{key} is of type {dataset.dtype}: expected floating point; quantised files cannot be read")
    return torch.from_numpy(np.asarray(dataset[()], dtype=dataset.dtype.newbyteorder("=")))


def text_of(value: str | bytes | None) -> str | None:
    """Return a text attribute, which h5py gives as bytes where its length is fixed."""
    return value.decode() if isinstance(value, bytes) else value
