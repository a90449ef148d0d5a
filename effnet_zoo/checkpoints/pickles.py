"""Reads what ``torch.save`` wrote: tensors and plain values, with nothing run and memory bounded by the file's size.

A pickle is a program for a small machine. Python's own machine calls any function that a file names. The machine here
has only the operations that ``torch.save`` uses (pickle protocols 2 to 5), and the names that a file may ask for are
one table, `_NAMES`, whose values are this module's own. Everything else is refused by name. What is of no use to a
state dict (numbers of numpy, dates, paths, ...) becomes an `Opaque`, and its content is dropped.

It is stricter than ``torch.load(weights_only=True)``: its table is the same for the whole process whatever other
threads allow; a file that asks for memory, as ``bytearray(10**10)`` does, gets none; and the size that a file says a
storage has is compared with the bytes that are there before any is allocated.
"""

import io
import math
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from effnet_zoo.errors import WeightsError, quoted

MAX_OPERATIONS = 1_000_000
"""Of all pickles in a file. Each takes some 100 bytes of memory. V2 XL, its average and four slots of an optimizer for
each weight have 450,000."""

_TENSOR_COST = 10
"""Operations that a tensor or a storage counts for: as an object it takes as much memory as so many others."""

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
"""What ``torch.save`` of torch before 1.6 wrote first (torch/serialization.py, MAGIC_NUMBER)."""
_PROTOCOL = 1001
_MAX_DIMENSIONS = 16


class PickleError(WeightsError):
    """What is wrong with a file. The message is to follow the file's name."""


class Opaque:
    """Stands for a value that is of no use to a state dict, whose content was not kept."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Storage:
    """A piece of memory that tensors are views of.

    Attributes:
        dtype: Of its elements.
        data: Its bytes, uint8.
        start: Its first element among those in `data`.
        length: Number of its elements.
    """

    dtype: torch.dtype
    data: Tensor
    start: int
    length: int


def read(file: BinaryIO, size: int) -> Any:
    """Reads the object in a file of ``torch.save``, of either of its formats.

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
    """Reads an archive: ``NAME/data.pkl``, and each storage as ``NAME/data/KEY``."""
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

    memory: dict[str, _Storage] = {}

    def storage(name: str, dtype: torch.dtype, key: str, _: Any, length: int, *__: Any) -> _Storage:
        if (known := memory.get(key)) and (known.dtype, known.length) == (dtype, length):
            return known
        entry = entries.get(f"{folder}/data/{key}")
        if known or entry is None or entry.file_size != length * dtype.itemsize:
            held = f"{entry.file_size} bytes" if entry else "nothing"
            raise PickleError(f"storage {quoted(key)} is said to have {length} elements of {name}, but has {held}")
        memory[key] = _Storage(dtype, _stored(file, entry), 0, length)
        return memory[key]

    return _Machine(storage).run(io.BytesIO(_stored(file, entries[pickles[0]]).numpy().data))


def _stored(file: BinaryIO, entry: zipfile.ZipInfo) -> Tensor:
    """Returns the bytes of an entry of an archive, uint8."""
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
    """Reads what torch before 1.6 wrote: five pickles (the fourth is the object), then the storages' bytes."""
    memory: dict[str, _Storage] = {}
    promised = 0

    def storage(name: str, dtype: torch.dtype, key: str, _: Any, length: int, view: Any = None) -> _Storage:
        nonlocal promised
        whole = memory.get(key)
        if whole is None:
            promised += length * dtype.itemsize
            if promised > size:
                raise PickleError(f"its storages are said to have {promised} bytes, the file has {size}")
            data = torch.empty(length * dtype.itemsize, dtype=torch.uint8)
            whole = memory[key] = _Storage(dtype, data, 0, length)
        if (dtype, length) != (whole.dtype, whole.length):
            raise PickleError(f"storage {quoted(key)} is said to be of {name}, and of {whole.dtype}")
        if view is None:
            return whole
        _, start, length = view
        if not _is_count(start) or not _is_count(length) or start + length > whole.length:
            raise PickleError(f"storage {quoted(key)} has {whole.length} elements, fewer than a view of it")
        return _Storage(dtype, whole.data, start, length)

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
    """Runs pickles: a stack, the stacks that marks have set aside, and the values that a pickle has numbered.

    Args:
        storage: Returns a storage, given what `torch.save` writes of it: the name of its type, the dtype of that, its
            key, device and number of elements.
    """

    def __init__(self, storage: Callable[..., _Storage]) -> None:
        self._storage = storage
        self._left = MAX_OPERATIONS

    def run(self, source: Any) -> Any:
        """Returns the object of one pickle, read from where a file stands to where the pickle ends."""
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
        """Takes off what was pushed since the last mark."""
        items, self.stack = self.stack, self.aside.pop()
        return items

    def protocol(self, number: int) -> None:
        if not 2 <= number <= 5:
            raise PickleError(f"a pickle of protocol {number}: expected 2 to 5")

    def nothing(self, _: Any) -> None:
        """Marks a frame or the end."""

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
        """Makes a tuple of the last `count` values, or of those since the mark."""
        if count is None:
            self.push(tuple(self.since_mark()))
        else:
            items = tuple(self.stack[-count:])
            del self.stack[-count:]
            self.push(items)

    def drop(self) -> None:
        """Puts an `Opaque` in the place of what was pushed since the mark."""
        self.since_mark()
        self.push(Opaque())

    def append(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise PickleError(f"it appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        elif not isinstance(target, Opaque):
            raise PickleError(f"it sets items of a {type(target).__name__}")

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it is damaged: it asks for something that has no name")
        if (found := _NAMES.get(f"{module} {name}")) is None:
            raise PickleError(f"it asks for {module}.{name}; where you trust it, save its state_dict alone")
        self.push(found)

    def call(self, _: None) -> None:
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        self.spend(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple | dict)))
        result = _called(function, arguments)
        if isinstance(result, Tensor):
            self.spend(_TENSOR_COST)
        self.push(result)

    def build(self, _: None) -> None:
        """Drops the attributes of a value: what an `Opaque` holds, the `_metadata` of a state dict."""
        self.stack.pop()
        if not isinstance(target := self.stack[-1], dict | Opaque):
            raise PickleError(f"it sets attributes of a {type(target).__name__}")

    def persistent(self, _: None) -> None:
        kind, name, key, *rest = self.stack.pop()
        if kind != "storage":
            raise PickleError("a whole pickled model: save its state_dict instead")
        if not isinstance(name, _Name) or name.dtype is None or not isinstance(key, str) or not _is_count(rest[1]):
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


def _key(value: Any) -> Any:
    """A dictionary's key. Others than short plain values are of no state dict, and hashing them may never end."""
    plain = isinstance(value, str | float | bytes | None) or (isinstance(value, int) and value.bit_length() <= 64)
    return value if plain else Opaque()


# The names that a file may ask for.


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or function that a file may name.

    Attributes:
        text: Its name.
        make: What is called in its place; None if it may only be named, not called.
        dtype: Of the elements, if it is a class of storages.
    """

    text: str
    make: Callable[..., Any] | None = None
    dtype: torch.dtype | None = None


def _called(name: Any, arguments: Any) -> Any:
    if not isinstance(name, _Name) or name.make is None or not isinstance(arguments, tuple):
        raise PickleError(f"it calls {name.text if isinstance(name, _Name) else f'a {type(name).__name__}'}")
    return name.make(*arguments)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**62


def _are_counts(*values: Any) -> bool:
    return all(
        isinstance(value, tuple) and len(value) <= _MAX_DIMENSIONS and all(map(_is_count, value)) for value in values
    )


def _size(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, tuple):
        raise PickleError("it is damaged: a torch.Size is not described as torch describes one")
    return values


def _tensor(
    storage: Any, start: Any, shape: Any, strides: Any, _grad: Any = None, _hooks: Any = None, metadata: Any = None
) -> Tensor:
    """Returns a view of a storage, as torch._utils._rebuild_tensor_v2 does."""
    if not isinstance(storage, _Storage) or not _are_counts(shape, strides, (start,)):
        raise PickleError("it is damaged: a tensor is not described as torch describes one")
    if metadata:
        raise PickleError("a tensor that is conjugate or negative: expected plain tensors")
    last = start + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if not _is_count(math.prod(shape)) or (all(shape) and last >= storage.length):
        raise PickleError(f"a tensor of the shape {shape} in a storage of {storage.length} elements: it is damaged")
    whole = storage.data.untyped_storage()
    return torch.empty(0, dtype=storage.dtype).set_(whole, storage.start + start, shape, strides)


def _tensor_of_bytes(
    storage: Any, start: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    """Returns a view of bytes as elements of a dtype that has no class of storages (_rebuild_tensor_v3)."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        raise PickleError("it is damaged: a tensor is not described as torch describes one")
    typed = _Storage(dtype, storage.data, 0, len(storage.data) // dtype.itemsize)
    return _tensor(typed, start, shape, strides, metadata=metadata)


def _tensor_without_values(dtype: Any, shape: Any, strides: Any, _grad: Any) -> Tensor:
    """Returns a tensor on the meta device, for the reader to refuse by its key."""
    if not _are_counts(shape, strides) or not _is_count(math.prod(shape)):
        raise PickleError("it is damaged: a tensor is not described as torch describes one")
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise PickleError("it is damaged: a parameter is no tensor")
    return tensor


def _of_class(function: Any, kind: Any, arguments: Any, _state: Any) -> Tensor:
    """Returns a tensor that has attributes of its own, without them (_rebuild_from_type_v2)."""
    if not isinstance(kind, _Name) or kind.text not in ("torch.Tensor", *_PARAMETERS):
        raise PickleError("a tensor of another class than torch's: expected plain tensors")
    return _parameter(_called(function, arguments))


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _dictionary_with_default(factory: Any = None, *pairs: Any) -> dict[Any, Any]:
    if not (factory is None or isinstance(factory, _Name)):
        raise PickleError("a defaultdict whose default is no class")
    return _dictionary(*pairs)


def _opaque(*_: Any) -> Opaque:
    return Opaque()


_BUILTINS = ("builtins", "__builtin__")
"""The module's name in Python 3 and in 2, which Python 3 writes too in protocol 2."""

_PARAMETERS = ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_meta_tensor_no_storage": _tensor_without_values,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_class,
    "torch.Size": _size,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _dictionary_with_default,
}
_OPAQUE = (
    *("torch.device", "torch.serialization._get_layout", "argparse.Namespace", "collections.Counter"),
    *(
        "collections.deque",
        "_codecs.encode",
        "decimal.Decimal",
        "fractions.Fraction",
        "types.SimpleNamespace",
        "uuid.UUID",
    ),
    *(
        f"{module}.{name}"
        for module in _BUILTINS
        for name in ("set", "frozenset", "bytearray", "bytes", "complex", "range", "slice")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("numpy.dtype", "numpy.ndarray"),
    *(
        f"{module}.{name}"
        for module in ("numpy.core", "numpy._core")
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    ),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
)
_ONLY_NAMED = (
    *("torch.Tensor", *_PARAMETERS),
    *(f"{module}.{name}" for module in _BUILTINS for name in ("int", "float", "bool", "str", "list", "dict", "tuple")),
)
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_NAMES: Mapping[str, _Name | torch.dtype] = MappingProxyType(
    {
        " ".join(name.text.rsplit(".", 1)): name
        for name in (
            *(_Name(name, make) for name, make in _FUNCTIONS.items()),
            *(_Name(name, _opaque) for name in _OPAQUE),
            *(_Name(name) for name in _ONLY_NAMED),
            *(_Name(f"torch.{kind}Storage", dtype=dtype) for kind, dtype in _STORAGES.items()),
            _Name("torch.storage.UntypedStorage", dtype=torch.uint8),
        )
    }
    | {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
)
"""By module and name, as a pickle writes them: all that a file may ask for."""
