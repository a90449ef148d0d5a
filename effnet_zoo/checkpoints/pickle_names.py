"""The names that a pickle may ask for, each with what is made in its place: one table, `ALLOWED_NAMES`.

Names outside the table are refused. What is of no use to a state dict becomes an `Opaque`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.errors import WeightsError

_MAX_DIMENSIONS = 16
_NOT_AS_TORCH = "it is damaged: a tensor is not described as torch describes one"


class PickleError(WeightsError):
    """A pickle that is damaged or refused. The message is written after the file's name."""


class Opaque:
    """Stands for a value that is of no use to a state dict, whose content was not kept."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """A piece of memory that tensors are views of: elements of a dtype, and their bytes, uint8."""

    dtype: torch.dtype
    data: Tensor

    @property
    def length(self) -> int:
        """Number of elements."""
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a file may name."""

    text: str
    make: Callable[..., Any] | None = None
    """What is called in its place; None if it may only be named, not called."""
    dtype: torch.dtype | None = None
    """Of the elements, if it is a class of storages."""


def call_name(name: Any, arguments: Any) -> Any:
    """Return what a file gets for a call of a `Name`."""
    if not isinstance(name, Name) or name.make is None or not isinstance(arguments, tuple):
        raise PickleError(f"it calls {name.text if isinstance(name, Name) else f'a {type(name).__name__}'}")
    return name.make(*arguments)


def plain_key(value: Any) -> Any:
    """Return a dictionary's key, or an `Opaque` if it is not a short plain value: hashing it might never end."""
    plain = isinstance(value, str | float | bytes | None) or (isinstance(value, int) and value.bit_length() <= 64)
    return value if plain else Opaque()


def is_count(value: Any) -> bool:
    """Return whether a value can be a number of elements."""
    return isinstance(value, int) and 0 <= value < 2**62


def _are_counts(*values: Any) -> bool:
    return all(
        isinstance(value, tuple) and len(value) <= _MAX_DIMENSIONS and all(map(is_count, value)) for value in values
    )


def _tensor(
    storage: Any, start: Any, shape: Any, strides: Any, _grad: Any = None, _hooks: Any = None, metadata: Any = None
) -> Tensor:
    """Return a view of a storage, as torch._utils._rebuild_tensor_v2 does."""
    if not isinstance(storage, Storage) or not _are_counts(shape, strides, (start,)):
        raise PickleError(_NOT_AS_TORCH)
    if metadata:
        raise PickleError("a tensor that is conjugate or negative: expected plain tensors")
    last = start + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if not is_count(math.prod(shape)) or (all(shape) and last >= storage.length):
        raise PickleError(f"a tensor of the shape {shape} in a storage of {storage.length} elements: it is damaged")
    return torch.empty(0, dtype=storage.dtype).set_(storage.data.untyped_storage(), start, shape, strides)


def _tensor_of_bytes(
    storage: Any, start: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    """Return a view of bytes as elements of a dtype that has no class of storages (_rebuild_tensor_v3)."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise PickleError(_NOT_AS_TORCH)
    return _tensor(Storage(dtype, storage.data), start, shape, strides, metadata=metadata)


def _tensor_without_values(dtype: Any, shape: Any, strides: Any, _grad: Any) -> Tensor:
    """Return a tensor on the meta device. The reader refuses it by its key, if it is one of the weights."""
    if not _are_counts(shape, strides) or not is_count(math.prod(shape)):
        raise PickleError(_NOT_AS_TORCH)
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise PickleError("it is damaged: a parameter is no tensor")
    return tensor


def _of_class(function: Any, kind: Any, arguments: Any, _state: Any) -> Tensor:
    """Return a tensor that has attributes of its own, without them (_rebuild_from_type_v2)."""
    if not isinstance(kind, Name) or kind.text not in _TENSOR_CLASSES:
        raise PickleError("a tensor of another class than torch's: expected plain tensors")
    return _parameter(call_name(function, arguments))


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    return {plain_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _named(modules: str, names: str) -> list[str]:
    return [f"{module}.{name}" for module in modules.split() for name in names.split()]


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_meta_tensor_no_storage": _tensor_without_values,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_class,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": lambda _factory=None, *pairs: _dictionary(*pairs),
}

_BUILTINS = "builtins __builtin__"
"""The module's name in Python 3 and in 2, which Python 3 writes too in protocol 2."""

_OPAQUE = (
    *("argparse.Namespace", "types.SimpleNamespace", "collections.Counter", "collections.deque"),
    *_named("datetime", "datetime date time timedelta timezone"),
    *_named("numpy", "dtype ndarray"),
    *_named("numpy.core numpy._core", "multiarray._reconstruct multiarray.scalar numeric._frombuffer"),
    *_named("pathlib pathlib._local", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
    *_named(_BUILTINS, "set frozenset bytearray bytes complex range slice"),
    *("_codecs.encode", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
    *_named("torch", "Size device serialization._get_layout"),
)
"""Names whose values are of no use to a state dict."""

_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_ONLY_NAMED = (*_TENSOR_CLASSES, *_named(_BUILTINS, "int float bool str list dict tuple"))
"""Classes that a file may name, but not call."""

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
ALLOWED_NAMES: Mapping[str, Name | torch.dtype] = MappingProxyType(
    {
        " ".join(name.text.rsplit(".", 1)): name
        for name in (
            *(Name(name, make) for name, make in _FUNCTIONS.items()),
            *(Name(name, lambda *_: Opaque()) for name in _OPAQUE),
            *(Name(name) for name in _ONLY_NAMED),
            *(Name(f"torch.{kind}Storage", dtype=dtype) for kind, dtype in _STORAGES.items()),
            Name("torch.storage.UntypedStorage", dtype=torch.uint8),
        )
    }
    | {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
)
"""By module and name, as a pickle writes them: all that a file may ask for."""
