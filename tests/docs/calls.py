"""Check the calls in a piece of Python against the signatures of what they call, without running them.

The checker follows imports, assignments and annotations of return values. A call whose function it cannot find is an
error too, so that no call in the documentation goes unchecked.
"""

import ast
import builtins
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

import timm
import torch

import effnet_zoo
import hubconf
from effnet_zoo.network.options import ModelOptions


class CallError(Exception):
    """A call that the documentation shows, and that would fail."""


class Unknown:
    """A value of which nothing is known: each attribute and each result of it is unknown, too."""


class Instance:
    """A value of a known class, and the class of the items that it yields, if that is known."""

    def __init__(self, kind: type, items: type | None = None) -> None:
        self.kind, self.items = kind, items


_UNKNOWN = Unknown()

_RESULTS: dict[Any, Any] = dict.fromkeys(
    (timm.create_model, torch.hub.load, effnet_zoo.create_model), effnet_zoo.EfficientNet
)
"""What functions return whose annotation names a wider type."""

_MODEL_ATTRIBUTES = ("default_cfg", "feature_info", "load_report", "pretrained_cfg")
"""What a model gets when it is built; no annotation of the class says it."""


class Checker(ast.NodeVisitor):
    """Checks statements in order, in an environment that the names of earlier statements are in.

    Args:
        environment: Names that are known at the beginning.
    """

    def __init__(self, environment: Mapping[str, Any] | None = None) -> None:
        self.names: dict[str, Any] = {**vars(builtins), **(environment or {})}
        self.checked = 0

    def check(self, code: str) -> None:
        """Check code.

        Raises:
            CallError: Naming the call and what is wrong.
            SyntaxError: If it is not Python.
        """
        self.visit(ast.parse(code))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            importlib.import_module(alias.name)
            self.names[alias.asname or alias.name.split(".")[0]] = importlib.import_module(alias.name.split(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            self.names[alias.asname or alias.name] = getattr(module, alias.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self._assign(target, value)

    def visit_For(self, node: ast.For) -> None:
        self._iterate(node.target, node.iter)
        for statement in node.body:
            self.visit(statement)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        for generator in node.generators:
            self._iterate(generator.target, generator.iter)
        self.visit(node.elt)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.value(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.value(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id not in self.names:
            raise CallError(f"{node.id} is not defined")

    def _iterate(self, target: ast.expr, iterable: ast.expr) -> None:
        value = self.value(iterable)
        items = value.items if isinstance(value, Instance) else None
        self._assign(target, Instance(items) if items else _UNKNOWN)

    def _assign(self, target: ast.expr, value: Any) -> None:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self.names[name.id] = value if target is name else _UNKNOWN

    def value(self, node: ast.expr) -> Any:
        """Return what an expression stands for: an object, an `Instance` of a class, or `Unknown`."""
        match node:
            case ast.Name():
                self.visit_Name(node)
                return self.names[node.id]
            case ast.Attribute():
                return self._attribute(self.value(node.value), node.attr)
            case ast.Call():
                return self._called(node)
            case ast.Constant():
                return Instance(type(node.value))
        self.visit(node)
        return _UNKNOWN

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Unknown):
            return owner
        if isinstance(owner, Instance):
            if inspect.isroutine(known := getattr(owner.kind, name, None)):
                return _method(owner.kind, name)
            if known is None:
                annotated = {key for kind in owner.kind.__mro__ for key in getattr(kind, "__annotations__", {})}
                built = _MODEL_ATTRIBUTES if issubclass(owner.kind, torch.nn.Module) else ()
                if name not in {*annotated, *built}:
                    raise CallError(f"{owner.kind.__name__} has no attribute {name}")
            return _UNKNOWN
        if not hasattr(owner, name):
            raise CallError(f"{getattr(owner, '__name__', owner)} has no attribute {name}")
        return getattr(owner, name)

    def _called(self, node: ast.Call) -> Any:
        function = self.value(node.func)
        arguments = [argument.value if isinstance(argument, ast.Starred) else argument for argument in node.args]
        for argument in [*arguments, *(keyword.value for keyword in node.keywords)]:
            self.value(argument)
        if isinstance(function, Unknown):
            return function
        if isinstance(function, Instance):
            function = _method(function.kind, "forward" if issubclass(function.kind, torch.nn.Module) else "__call__")
        named = [keyword.arg for keyword in node.keywords if keyword.arg]
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a builtin of C
            return _UNKNOWN
        try:
            signature.bind(*arguments, **dict.fromkeys(named))
        except TypeError as error:
            raise CallError(f"{ast.unparse(node)}: {error}") from None
        passed_on = set(named) - signature.parameters.keys()
        known = _passed_on(function, node) if passed_on else None
        if known is not None and passed_on - known:
            raise CallError(f"{ast.unparse(node)}: unknown keywords: {', '.join(sorted(passed_on - known))}")
        self.checked += 1
        result = _RESULTS.get(function, function if isinstance(function, type) else _hints(function).get("return"))
        origin, items = typing.get_origin(result), [*typing.get_args(result), None][0]
        kind = origin if isinstance(origin, type) else result
        return Instance(kind, items if isinstance(items, type) else None) if isinstance(kind, type) else _UNKNOWN


def _method(kind: type, name: str) -> Any:
    """Return a function of a class as a method, which is bound to nothing that may be called."""
    found = getattr(kind, name)
    return types.MethodType(found, object()) if inspect.isfunction(found) else found


def _passed_on(function: Any, call: ast.Call) -> set[str] | None:
    """Return the keywords that a function with ``**options`` takes, or None if it takes any."""
    first = next((item.value for item in call.args if isinstance(item, ast.Constant)), None)
    if function is timm.create_model and str(first).startswith("effnet_zoo"):
        return _keys(ModelOptions)
    if function is torch.hub.load and isinstance(entry := call.args[1], ast.Constant):
        return {*inspect.signature(getattr(hubconf, str(entry.value))).parameters, *_keys(ModelOptions)}
    for annotation in _hints(function).values():
        if typing.get_origin(annotation) is typing.Unpack:
            return _keys(typing.get_args(annotation)[0])
    return None


def _keys(kind: Any) -> set[str]:
    return set(kind.__required_keys__ | kind.__optional_keys__)


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # of another library, under `if TYPE_CHECKING`
        return {}
