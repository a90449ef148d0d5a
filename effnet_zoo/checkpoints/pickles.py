"""Read what ``torch.save`` wrote: tensors and plain values. No code runs, and memory is bounded by the file's size.

A pickle is a program for a small machine. Python's own machine calls any function that a file names. The machine here
has only the operations that ``torch.save`` uses (pickle protocols 2 to 5), and the names that a file may ask for are
one table, `pickle_names.NAMES`. Everything else is refused by name. What is of no use to a state dict (NumPy scalars,
dates, paths, ...) becomes an `Opaque`, and its content is dropped.

It is stricter than ``torch.load(weights_only=True)``: its table is the same for the whole process whatever other
threads allow; a file that asks for memory, as ``bytearray(10**10)`` does, gets none; and the size that a file says a
storage has is compared with the bytes that are there before any is allocated.
"""

import io
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from effnet_zoo.checkpoints.pickle_names import (
    NAMES,
    Name,
    Opaque,
    PickleError,
    Storage,
    call_name,
    is_count,
    plain_key,
)
from effnet_zoo.errors import quoted

MAX_OPERATIONS = 1_000_000
"""Of all pickles in a file. Each takes some 100 bytes of memory. V2 XL, its average and four slots of an optimizer for
each weight have 450,000."""

_TENSOR_COST = 10
"""Operations that a tensor or a storage counts for: as an object it takes as much memory as so many others."""

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
"""What ``torch.save`` of torch before 1.6 wrote first (torch/serialization.py, MAGIC_NUMBER)."""
_PROTOCOL = 1001


def read(file: BinaryIO, size: int) -> Any:
    """Read the object in a file of ``torch.save``, of either of its formats.

    Args:
        file: At its start.
        size: Bytes in it.

    Returns:
        The object: dicts, lists, tuples, texts, numbers and tensors on the CPU, without gradients; anything else is an
        `Opaque`.

    Raises:
        PickleError: If the file is damaged, asks for anything that is not a plain value, or for more memory than it
            has bytes.
    """
    start = file.read(512)
    file.seek(0)
    if start[257:262] == b"ustar":
        raise PickleError("a tar archive, as torch wrote until 2017: load it with torch, and save its state_dict")
    try:
        return _read_zip(file, size) if start.startswith(_ZIP) else _read_legacy(file, size)
    except PickleError:
        raise
    except Exception as error:  # IndexError, KeyError, ...: whatever comes of operations in a wrong order
        raise PickleError("it is damaged, or another kind of file") from error


# The two formats.


def _read_zip(file: BinaryIO, size: int) -> Any:
    """Read an archive: ``NAME/data.pkl``, and each storage as ``NAME/data/KEY``."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries.values()):
        raise PickleError("it is compressed, as torch.save never does: expected what torch.save itself wrote")
    if (unpacked := sum(entry.file_size for entry in entries.values())) > size:
        raise PickleError(f"it unpacks to {unpacked} bytes, more than it has: torch does not write such files")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError("an archive without data.pkl: expected what torch.save wrote")
    folder = pickles[0].partition("/")[0]
    if f"{folder}/constants.pkl" in entries:
        raise PickleError("a TorchScript archive, which holds a program: save the model's state_dict instead")
    if order := entries.get(f"{folder}/byteorder"):
        _check_byte_order(bytes(_stored(file, order)).decode())

    memory: dict[str, Storage] = {}

    def storage(name: str, dtype: torch.dtype, key: str, _: Any, length: int, *__: Any) -> Storage:
        if (known := memory.get(key)) and (known.dtype, known.length) == (dtype, length):
            return known
        entry = entries.get(f"{folder}/data/{key}")
        if known or entry is None or entry.file_size != length * dtype.itemsize:
            held = f"{entry.file_size} bytes" if entry else "nothing"
            raise PickleError(f"storage {quoted(key)} is said to have {length} elements of {name}, but has {held}")
        memory[key] = Storage(dtype, _stored(file, entry), 0, length)
        return memory[key]

    return _Machine(storage).run(io.BytesIO(_stored(file, entries[pickles[0]]).numpy().data))


def _stored(file: BinaryIO, entry: zipfile.ZipInfo) -> Tensor:
    """Return the bytes of an entry of an archive, uint8."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != _ZIP:
        raise PickleError("it is damaged: an entry of the archive is not where its directory says")
    name, extra = struct.unpack("<HH", header[26:])
    content = torch.empty(entry.file_size, dtype=torch.uint8)
    file.seek(entry.header_offset + 30 + name + extra)
    _fill(file, content)
    # torch.serialization.set_crc32_options(False) writes 0.
    if entry.CRC and zlib.crc32(content.numpy().data) != entry.CRC:
        raise PickleError(f"it is damaged: {quoted(entry.filename)} does not have the checksum that was written")
    return content


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Read what torch before 1.6 wrote: five pickles (the fourth is the object), then the storages' bytes."""
    memory: dict[str, Storage] = {}
    promised = 0

    def storage(name: str, dtype: torch.dtype, key: str, _: Any, length: int, view: Any = None) -> Storage:
        nonlocal promised
        whole = memory.get(key)
        if whole is None:
            promised += length * dtype.itemsize
            if promised > size:
                raise PickleError(f"its storages are said to have {promised} bytes, the file has {size}")
            data = torch.empty(length * dtype.itemsize, dtype=torch.uint8)
            whole = memory[key] = Storage(dtype, data, 0, length)
        if (dtype, length) != (whole.dtype, whole.length):
            raise PickleError(f"storage {quoted(key)} is said to be of {name}, and of {whole.dtype}")
        if view is None:
            return whole
        _, start, length = view
        if not is_count(start) or not is_count(length) or start + length > whole.length:
            raise PickleError(f"storage {quoted(key)} has {whole.length} elements, fewer than a view of it")
        return Storage(dtype, whole.data, start, length)

    source, machine = _Bounded(file, size), _Machine(storage)
    if machine.run(source) != _MAGIC or machine.run(source) != _PROTOCOL:
        raise PickleError("it is no file of torch.save")
    system = machine.run(source)
    _check_byte_order("little" if system["little_endian"] is True else "big")
    content, keys = machine.run(source), machine.run(source)
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or sorted(keys) != sorted(memory):
        raise PickleError("it is damaged: it does not hold the storages that its tensors are in")
    file.seek(source.tell())
    for key in keys:
        (length,) = struct.unpack("<q", file.read(8))
        if length != memory[key].length:
            raise PickleError(f"storage {quoted(key)} has {length} elements, not {memory[key].length} as was said")
        _fill(file, memory[key].data)
    return content


def _check_byte_order(order: str) -> None:
    if order != sys.byteorder:
        raise PickleError(
            f"its tensors are {quoted(order)} endian, expected {sys.byteorder}: save it on such a machine"
        )


def _fill(file: BinaryIO, content: Tensor) -> None:
    view = memoryview(content.numpy().data)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise PickleError(f"it is cut short: {len(view) - done} bytes are missing")
        done += count


class _Bounded:
    """A file that never reads more than there is, whatever length a pickle says that a text has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))


# The machine.


class _Machine:
    """Run pickles: a stack, the stacks that marks have set aside, and the values that a pickle has numbered.

    Args:
        storage: Returns a storage, given what `torch.save` writes of it: the name of its type, the dtype of that, its
            key, device and number of elements.
    """

    def __init__(self, storage: Callable[..., Storage]) -> None:
        self._storage = storage
        self._left = MAX_OPERATIONS

    def run(self, source: Any) -> Any:
        """Return the object of one pickle, read from where a file stands to where the pickle ends."""
        self.stack: list[Any] = []
        self.aside: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(source):
            self.spend(1)
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise PickleError(f"it has a pickle's operation {opcode.name}, which torch.save does not write")
            operation(self, argument)
        (content,) = self.stack
        return content

    def spend(self, operations: int) -> None:
        self._left -= operations
        if self._left < 0:
            raise PickleError(f"more than {MAX_OPERATIONS} values: expected a checkpoint, save its state_dict alone")

    def since_mark(self) -> list[Any]:
        """Take off what was pushed since the last mark."""
        items, self.stack = self.stack, self.aside.pop()
        return items

    def protocol(self, number: int) -> None:
        if not 2 <= number <= 5:
            raise PickleError(f"a pickle of protocol {number}: expected 2 to 5")

    def nothing(self, _: Any) -> None:
        """Mark a frame or the end."""

    def mark(self, _: None) -> None:
        self.aside.append(self.stack)
        self.stack = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, number: int | None) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def get(self, number: int) -> None:
        self.push(self.memo[number])

    def group(self, count: int | None) -> None:
        """Make a tuple of the last `count` values, or of those since the mark."""
        if count is None:
            self.push(tuple(self.since_mark()))
        else:
            items = tuple(self.stack[-count:])
            del self.stack[-count:]
            self.push(items)

    def drop(self) -> None:
        """Put an `Opaque` in the place of what was pushed since the mark."""
        self.since_mark()
        self.push(Opaque())

    def append(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise PickleError(f"it appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            target.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))
        elif not isinstance(target, Opaque):
            raise PickleError(f"it sets items of a {type(target).__name__}")

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it is damaged: it asks for something that has no name")
        if (found := NAMES.get(f"{module} {name}")) is None:
            raise PickleError(f"it asks for {module}.{name}; where you trust it, save its state_dict alone")
        self.push(found)

    def call(self, _: None) -> None:
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        self.spend(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple | dict)))
        result = call_name(function, arguments)
        if isinstance(result, Tensor):
            self.spend(_TENSOR_COST)
        self.push(result)

    def build(self, _: None) -> None:
        """Drop the attributes of a value: what an `Opaque` holds, the `_metadata` of a state dict."""
        self.stack.pop()
        if not isinstance(target := self.stack[-1], dict | Opaque):
            raise PickleError(f"it sets attributes of a {type(target).__name__}")

    def persistent(self, _: None) -> None:
        kind, name, key, *rest = self.stack.pop()
        if kind != "storage":
            raise PickleError("a whole pickled model: save its state_dict instead")
        if not isinstance(name, Name) or name.dtype is None or not isinstance(key, str) or not is_count(rest[1]):
            raise PickleError("it is damaged: a storage is not described as torch describes one")
        self.spend(_TENSOR_COST)
        self.push(self._storage(name.text, name.dtype, key, *rest))


_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    **dict.fromkeys(("FRAME", "STOP"), _Machine.nothing),
    "MARK": _Machine.mark,
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(Opaque()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.group(1),
    "TUPLE2": lambda machine, _: machine.group(2),
    "TUPLE3": lambda machine, _: machine.group(3),
    "TUPLE": lambda machine, _: machine.group(None),
    "FROZENSET": lambda machine, _: machine.drop(),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, names: machine.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(machine.stack.pop(-2), machine.stack.pop()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
"""What each operation of a pickle does, by its name in the standard library's `pickletools`."""
