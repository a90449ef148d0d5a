"""Predictions and embeddings as tables: the columns, the cells of a row, and what the rows of a file depend on."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from effnet_zoo.images.finding import path_text
from effnet_zoo.predict.prediction import Embedding, Prediction
from effnet_zoo.zoo.preprocessing import Preprocessing

Row = Mapping[str, Any]
"""Values by column. Each row has a ``path``, and either an ``error`` or the other columns."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A column: its name, the kind of its values, and the length of each value that is a list of numbers."""

    name: str
    kind: Literal["text", "whole", "real", "reals"]
    width: int = 1


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the rows of a file depend on: the content of ``NAME.run.json``.

    Attributes:
        effnet_zoo: What is computed.
        model: Name of the model, or path of an exported file.
        weights: SHA-256 that stands for the weights.
        topk: Classes a row; None for features.
    """

    effnet_zoo: Literal["predicting", "embedding"]
    model: str
    weights: str
    preprocessing: Preprocessing
    orientation: bool
    dtype: str
    topk: int | None = None
    columns: tuple[Column, ...]


def columns(topk: int | None, features: int) -> tuple[Column, ...]:
    """Return the columns of a file of `topk` classes a row, or, if that is None, of so many features."""
    found = [Column("path", "text"), Column("error", "text")]
    if topk is None:
        return (*found, Column("feature", "reals", features))
    kinds: dict[str, Literal["whole", "text", "real"]] = {"index": "whole", "label": "text", "probability": "real"}
    found += [Column(f"{name}_{place}", kind) for place in range(1, topk + 1) for name, kind in kinds.items()]
    return tuple(found)


def as_row(result: Prediction | Embedding) -> Row:
    """Return a result as a row of a CSV or Parquet file."""
    row: dict[str, Any] = {"path": path_text(result.path), "error": result.error}
    if isinstance(result, Embedding):
        return row if result.values is None else row | {"feature": result.values.tolist()}
    for place, guess in enumerate(result.guesses, 1):
        row |= {f"{name}_{place}": value for name, value in dataclasses.asdict(guess).items()}
    return row


def as_json(result: Prediction | Embedding, **described: Any) -> dict[str, Any]:
    """Return a result as a JSON object: its path, what describes it, and what was found, or the error."""
    answer: dict[str, Any] = {"path": path_text(result.path), **described}
    if result.error is not None:
        return answer | {"error": result.error}
    if isinstance(result, Embedding):
        assert result.values is not None
        return answer | {"feature": result.values.tolist()}
    return answer | {"classes": [dataclasses.asdict(guess) for guess in result.guesses]}
