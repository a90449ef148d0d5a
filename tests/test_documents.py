"""Documents from outside become typed objects, or one error that names the file, the field and what was expected."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest

from effnet_zoo.documents import check_finite, from_json, from_plain, from_toml
from effnet_zoo.errors import ArgumentError, WeightsError


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    sides: tuple[int, int]
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Outer(msgspec.Struct):
    name: str
    inner: Inner | None = None


@dataclass(frozen=True, kw_only=True)
class Ours:
    size: int

    def __post_init__(self) -> None:
        if self.size < 3:
            raise ArgumentError(f"size {self.size}: expected at least 3")


def test_a_document_of_the_type_is_an_object_of_it() -> None:
    expected = Outer(name="x", inner=Inner(sides=(1, 2), share=0.5))
    assert from_json(b'{"name": "x", "inner": {"sides": [1, 2], "share": 0.5}}', Outer, "f", WeightsError) == expected
    assert from_toml('name = "x"\n[inner]\nsides = [1, 2]\nshare = 0.5', Outer, "f", WeightsError) == expected
    plain = {"name": "x", "inner": {"sides": [1, 2], "share": 0.5}, "more": None}
    assert from_plain(plain, Outer, "f", WeightsError) == expected
    assert from_json('{"size": 3}', Ours, "f", WeightsError) == Ours(size=3)


REFUSED: list[tuple[str | bytes, type[Any], str]] = [
    ('{"name": 1}', Outer, "f: name: expected str, found int"),
    ("{}", Outer, "f: object missing required field name"),
    ('{"name": "x", "inner": {"sides": [1, "2"]}}', Outer, "f: inner.sides[1]: expected int, found str"),
    ('{"name": "x", "inner": {"sides": [1]}}', Outer, "f: inner.sides: expected array of length 2"),
    ('{"name": "x", "inner": {"sides": [1, 2], "share": 0}}', Outer, "f: inner.share: expected float > 0.0"),
    ('{"name": "x", "inner": {"sides": [1, 2], "shar": 1}}', Outer, "f: inner: object contains unknown field shar"),
    ('{"name": "x", "inner": {"sides": [1, 2], "share": NaN}}', Outer, "f: expected JSON: invalid character"),
    ('{"name": "x", "inner": {"sides": [1, 2], "share": 1e999}}', Outer, "f: inner.share: number out of range"),
    ('{"name": "x", "inner": {"sides": [1, true]}}', Outer, "f: inner.sides[1]: expected int, found bool"),
    ("[" * 100_000, dict[str, Any], "f: expected object, found array"),
    ("[" * 100_000, object, "f: objects and lists inside each other"),
    ("", Outer, "f: expected JSON: input data was truncated"),
    (b'{"name": "\xff"}', Outer, "f: "),
    ('{"name": "x"} {}', Outer, "f: expected JSON: trailing characters"),
    ('{"size": 2}', Ours, "f: size 2: expected at least 3"),
    ("9" * 5000, int, "f: integer value out of range"),
]


@pytest.mark.parametrize(("text", "kind", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_another_document_is_refused_with_file_and_field(text: str | bytes, kind: type[Any], expected: str) -> None:
    with pytest.raises(WeightsError) as caught:
        from_json(text, kind, "f", WeightsError)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["name = ", "name = 1", "[" * 5000, "a = " + "[" * 5000, 'name = "\\uD800"'])
def test_toml_is_refused_alike(text: str) -> None:
    with pytest.raises(WeightsError, match=r"^f: "):
        from_toml(text, Outer, "f", WeightsError)


def test_a_number_that_is_not_finite_is_named() -> None:
    check_finite({"a": [1, 2.0, {"b": "text", "c": None}]}, "record", ArgumentError)
    with pytest.raises(ArgumentError, match=r"record\.a\[1\]\.b: expected a finite number, found nan"):
        check_finite({"a": [1, {"b": float("nan")}]}, "record", ArgumentError)
