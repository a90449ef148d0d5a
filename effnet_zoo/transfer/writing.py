"""Write a package in a layout: the weight file, and the files that belong beside it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints import config_json, statefile
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.keras import Normalisation, write_keras_file
from effnet_zoo.layouts import LAYOUTS, OURS, Layout
from effnet_zoo.layouts.layout import NetworkDescription

SUMMARY = "conversion.json"
"""The file with `summary` beside weights in another library's layout."""

UNCHANGED: Normalisation = ((0.0,) * 3, (1.0,) * 3)
"""The normalisation that leaves pixels scaled to 0..1 alone."""


def write_weight_file(
    path: Path,
    layout: Layout,
    state: Mapping[str, Tensor],
    arch: ArchSpec,
    normalisation: Normalisation = UNCHANGED,
) -> None:
    """Write weights as a library stores them.

    Args:
        path: Where to; its name ends as `Layout.filename` does.
        layout: The library's.
        state: Tensors under our keys.
        arch: The network.
        normalisation: Mean and standard deviation of each channel, for a file that holds them.

    Raises:
        FileError: If the file cannot be written.
        WeightsError: If the library has no such network.
    """
    if path.suffix == ".h5":
        write_keras_file(path, state, arch, normalisation=normalisation if layout.stores_normalisation else None)
    else:
        statefile.write(path, layout.table.to_theirs(state, arch))


def write_folder(package: Bundle, folder: Path, layout: Layout, network: NetworkDescription | None) -> None:
    """Write a package's weights in a layout, and what its library keeps beside them, into a folder.

    Raises:
        FileError: If a file cannot be written.
        WeightsError: If the library has no such network or preprocessing.
    """
    assert package.images is not None
    if layout is OURS:
        noted = with_proof_noted(package)
        noted.write_weights(folder)
        (folder / config_json.FILENAME).write_text(noted.config_json(), encoding="utf-8")
        return
    normalisation = (package.images.mean, package.images.std)
    write_weight_file(folder / layout.filename, layout, package.state, package.arch, normalisation)
    documents: dict[str, Any] = {SUMMARY: summary(package)}
    if layout.config_files:
        assert network is not None
        documents |= layout.config_files.write(network, package.labels, package.images)
    for name, content in documents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def with_proof_noted(package: Bundle) -> Bundle:
    """Return the package with its proof among the notes of its record, which ``config.json`` keeps."""
    notes = [*(package.record.get("notes") or ()), *([str(package.proof)] if package.proof else [])]
    return dataclasses.replace(package, record={**package.record, "notes": list(dict.fromkeys(notes))})


def summary(package: Bundle) -> dict[str, Any]:
    """Return in JSON's types what a package is, and in which layout it was written."""
    to = package.target
    return {
        "source": package.source,
        "layout": package.layout,
        **({"to": to, "loads_with": LAYOUTS[to].loads_with} if to else {}),
        "variant": package.variant,
        "num_classes": package.num_classes,
        "in_chans": package.options["in_chans"],
        "seen": list(package.seen),
        "assumed": list(package.assumed),
        "dropped": dict(package.dropped),
        "preprocessing": dataclasses.asdict(package.images) if package.images else None,
        "labels": list(package.labels) if package.labels else None,
        "proof": dataclasses.asdict(package.proof) if package.proof else None,
    }
