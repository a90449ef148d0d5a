"""Read what ``torch.save`` wrote: tensors and plain values. No code runs, and memory is bounded by the file's size.

A pickle is a program for a small machine. Python's own machine calls any function that a file names. The machine here
has only the operations that ``torch.save`` uses (pickle protocols 2 to 5), and the names that a file may ask for are
one table, `pickle_names.ALLOWED_NAMES`. Everything else is refused by name. What is of no use to a state dict (NumPy
scalars, dates, paths, ...) becomes an `Opaque`, and its content is dropped.

It is stricter than ``torch.load(weights_only=True)``: its table is the same for the whole process whatever other
threads allow; a file that asks for memory, as ``bytearray(10**10)`` does, gets none; and the size that a file says a
storage has is compared with the bytes that are there before any is allocated.
"""

import io
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import torch
from torch import Tensor

from effnet_zoo.checkpoints.pickle_names import (
    ALLOWED_NAMES,
    Name,
    Opaque,
    PickleError,
    Storage,
    call_name,
    is_count,
    plain_key,
)
from effnet_zoo.errors import first_line, quoted

MAX_OPERATIONS = 1_000_000
"""Largest number in a file. Each takes some 100 bytes of memory. V2 XL, its average and four slots of an optimizer for
each weight have 450,000."""

_TENSOR_COST = 10
"""Operations that a tensor or a storage counts for: as an object it takes as much memory as ten plain values."""

_CHUNK = 1 << 20
"""Bytes that are read at a time."""

_MAGIC = 0x1950A86A20F9469CFC6C
"""What ``torch.save`` of torch before 1.6 wrote first (torch/serialization.py, MAGIC_NUMBER)."""
_PROTOCOL = 1001


def read_pickle(file: IO[bytes], size: int) -> Any:
    """Read the object in a file of ``torch.save`` of `size` bytes, of either of its formats.

    It is made of dicts, lists, tuples, texts, numbers and tensors on the CPU, without gradients; anything else is an
    `Opaque`. A file that is damaged or refused is a PickleError.
    """
    start = file.read(512)
    file.seek(0)
    if start[257:262] == b"ustar":
        raise PickleError("a tar archive, as torch wrote until 2017: load it with torch, and save its state_dict")
    try:
        return _read_zip(file, size) if start.startswith(b"PK\x03\x04") else _read_legacy(file, size)
    except PickleError:
        raise
    except zipfile.BadZipFile as error:
        raise PickleError(f"it is damaged: {first_line(error)}") from error
    except Exception as error:  # IndexError, KeyError, ...: whatever comes of operations in a wrong order
        raise PickleError("it is damaged, or another kind of file") from error


# The two formats.


def _read_zip(file: IO[bytes], size: int) -> Any:
    """Read an archive: ``NAME/data.pkl``, and each storage as ``NAME/data/KEY``."""
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise PickleError("it is compressed, as torch.save never does: expected what torch.save itself wrote")
    if (unpacked := sum(entry.file_size for entry in entries.values())) > size:
        raise PickleError(f"it unpacks to {unpacked} bytes, more than it has: torch does not write such files")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError("an archive without data.pkl: expected what torch.save wrote")
    folder = pickles[0].partition("/")[0]
    if f"{folder}/constants.pkl" in entries:
        raise PickleError("a TorchScript archive, which holds a program: save the model's state_dict instead")

    def content(name: str) -> Tensor:
        entry = entries[name]
        if not entry.CRC:  # torch.serialization.set_crc32_options(False) writes 0: an entry without it is not checked
            del entry.CRC
        with archive.open(entry) as stored:
            return _filled(torch.empty(entry.file_size, dtype=torch.uint8), stored)

    def storage(key: str, count: int) -> Tensor:
        entry = entries.get(f"{folder}/data/{key}")
        if entry is None or entry.file_size != count:
            held = f"{entry.file_size} bytes" if entry else "nothing"
            raise PickleError(f"storage {quoted(key)} is said to have {count} bytes, but has {held}")
        return content(entry.filename)

    if f"{folder}/byteorder" in entries:
        _check_byte_order(bytes(content(f"{folder}/byteorder")).decode())
    return _Machine(storage).run(io.BytesIO(content(pickles[0]).numpy().data))


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """Read what torch before 1.6 wrote: five pickles (the fourth is the object), then the storages' bytes."""
    promised = 0

    def storage(_: str, count: int) -> Tensor:
        nonlocal promised
        promised += count
        if promised > size:
            raise PickleError(f"its storages are said to have {promised} bytes, the file has {size}")
        return torch.empty(count, dtype=torch.uint8)

    source, machine = _Bounded(file, size), _Machine(storage)
    if machine.run(source) != _MAGIC or machine.run(source) != _PROTOCOL:
        raise PickleError("it is no file of torch.save")
    _check_byte_order("little" if machine.run(source)["little_endian"] is True else "big")
    content, keys = machine.run(source), machine.run(source)
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or sorted(keys) != sorted(machine.storages):
        raise PickleError("it is damaged: it does not hold the storages that its tensors are in")
    for key in keys:
        (length,) = struct.unpack("<q", file.read(8))
        if length != machine.storages[key].length:
            raise PickleError(f"storage {quoted(key)} has {length} elements, not as many as was said")
        _filled(machine.storages[key].data, file)
    return content


def _check_byte_order(order: str) -> None:
    if order != sys.byteorder:
        found = f"its tensors are {quoted(order)} endian"
        raise PickleError(f"{found}, expected {sys.byteorder}: save it on such a machine")


def _filled(content: Tensor, file: Any) -> Tensor:
    """Return a tensor of bytes after reading it whole from a file."""
    view, done = memoryview(content.numpy().data), 0
    while done < len(view):
        count = file.readinto(view[done : done + _CHUNK])
        if not count:
            raise PickleError(f"it is cut short: {len(view) - done} bytes are missing")
        done += count
    return content


class _Bounded:
    """A file that never reads more than there is, whatever length a pickle says that a text has."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))


# The machine.


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NEW: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": Opaque}


class _Machine:
    """A machine for the pickles of one file."""

    def __init__(self, storage: Callable[[str, int], Tensor]) -> None:
        """Take a function that returns a storage's bytes, uint8, from its key and their number."""
        self.storages: dict[str, Storage] = {}
        self._new_storage = storage
        self._left = MAX_OPERATIONS

    def run(self, source: Any) -> Any:
        """Return the object of one pickle, read from where a file stands to where the pickle ends."""
        stack: list[Any] = []
        aside: list[list[Any]] = []  # what stood on the stack at each mark
        memo: dict[int, Any] = {}
        operations: Iterable[tuple[Any, Any, Any]] = pickletools.genops(source)
        for opcode, argument, _ in operations:
            self._spend(1)
            match opcode.name:
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                    stack.append(_CONSTANTS[opcode.name])
                case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                    stack.append(_NEW[opcode.name]())
                case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    memo[len(memo) if argument is None else argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "MARK":
                    aside.append(stack)
                    stack = []
                case "TUPLE":
                    items, stack = stack, aside.pop()
                    stack.append(tuple(items))
                case "FROZENSET":
                    stack = aside.pop()
                    stack.append(Opaque())
                case "APPENDS" | "ADDITEMS":
                    items, stack = stack, aside.pop()
                    _put_into(stack[-1], list, items)
                case "SETITEMS":
                    items, stack = stack, aside.pop()
                    _put_into(stack[-1], dict, items)
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(opcode.name[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case "APPEND":
                    _put_into(stack[-2], list, [stack.pop()])
                case "SETITEM":
                    _put_into(stack[-3], dict, [stack.pop(-2), stack.pop()])
                case "GLOBAL":
                    stack.append(_find(*argument.split(" ", 1)))
                case "STACK_GLOBAL":
                    stack.append(_find(stack.pop(-2), stack.pop()))
                case "REDUCE" | "NEWOBJ":
                    stack.append(self._call(stack.pop(-2), stack.pop()))
                case "BUILD":  # what an Opaque holds, or the _metadata of a state dict: dropped
                    stack.pop()
                    _put_into(stack[-1], dict, [])
                case "BINPERSID":
                    stack.append(self._storage(*stack.pop()))
                case "PROTO":
                    if not 2 <= argument <= 5:
                        raise PickleError(f"a pickle of protocol {argument}: expected 2 to 5")
                case "FRAME" | "STOP":
                    pass
                case name:
                    raise PickleError(f"it has a pickle's operation {name}, which torch.save does not write")
        (content,) = stack
        return content

    def _spend(self, operations: int) -> None:
        self._left -= operations
        if self._left < 0:
            raise PickleError(f"more than {MAX_OPERATIONS} values: expected a checkpoint, save its state_dict alone")

    def _call(self, function: Any, arguments: Any) -> Any:
        self._spend(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple | dict)))
        result = call_name(function, arguments)
        if isinstance(result, Tensor):
            self._spend(_TENSOR_COST)
        return result

    def _storage(self, kind: Any, name: Any, key: Any, _device: Any, length: Any = None, view: Any = None) -> Storage:
        if kind != "storage":
            raise PickleError("a whole pickled model: save its state_dict instead")
        if not isinstance(name, Name) or name.dtype is None or not isinstance(key, str) or not is_count(length):
            raise PickleError("it is damaged: a storage is not described as torch describes one")
        if view is not None:
            raise PickleError("a storage that is part of another: load it with torch, and save its state_dict")
        self._spend(_TENSOR_COST)
        if key not in self.storages:
            self.storages[key] = Storage(name.dtype, self._new_storage(key, length * name.dtype.itemsize))
        storage = self.storages[key]
        if (storage.dtype, storage.length) != (name.dtype, length):
            raise PickleError(f"storage {quoted(key)} is said to be of {name.text}, and of {storage.dtype}")
        return storage


def _put_into(target: Any, kind: type, items: list[Any]) -> None:
    """Put items into a list or a dict. An `Opaque` drops them."""
    if not isinstance(target, kind | Opaque):
        raise PickleError(f"it puts items into a {type(target).__name__}: expected a {kind.__name__}")
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        target.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))


def _find(module: Any, name: Any) -> Any:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleError("it is damaged: it asks for something that has no name")
    if (found := ALLOWED_NAMES.get(f"{module} {name}")) is None:
        raise PickleError(f"it asks for {module}.{name}; where you trust it, save its state_dict alone")
    return found
