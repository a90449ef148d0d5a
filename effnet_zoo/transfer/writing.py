"""Write a bundle in a layout: the weight file, and the files that belong beside it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints import statefile
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
        statefile.write_safetensors(path, layout.table.to_theirs(state, arch))


def write_folder(bundle: Bundle, folder: Path, layout: Layout, network: NetworkDescription | None) -> None:
    """Write a bundle's weights in a layout, and what its library keeps beside them, into a folder.

    Raises:
        FileError: If a file cannot be written.
        WeightsError: If the library has no such network or preprocessing.
    """
    assert bundle.images is not None
    if layout is OURS:
        with_proof_noted(bundle).write(folder)
        return
    normalisation = (bundle.images.mean, bundle.images.std)
    write_weight_file(folder / layout.filename, layout, bundle.state, bundle.arch, normalisation)
    documents: dict[str, Any] = {SUMMARY: summary(bundle)}
    if layout.config_files:
        assert network is not None
        documents |= layout.config_files.write(network, bundle.labels, bundle.images)
    for name, content in documents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def with_proof_noted(bundle: Bundle) -> Bundle:
    """Return the bundle with its proof among the notes of its record, which ``config.json`` keeps."""
    notes = [*(bundle.record.get("notes") or ()), *([str(bundle.proof)] if bundle.proof else [])]
    return dataclasses.replace(bundle, record={**bundle.record, "notes": list(dict.fromkeys(notes))})


def summary(bundle: Bundle) -> dict[str, Any]:
    """Return in JSON's types what a bundle is, and in which layout it was written."""
    to = bundle.target
    return {
        "source": bundle.source,
        "layout": bundle.layout,
        **({"to": to, "loads_with": LAYOUTS[to].loads_with} if to else {}),
        "variant": bundle.variant,
        "num_classes": bundle.num_classes,
        "in_chans": bundle.options["in_chans"],
        "seen": list(bundle.seen),
        "assumed": list(bundle.assumed),
        "dropped": dict(bundle.dropped),
        "preprocessing": dataclasses.asdict(bundle.images) if bundle.images else None,
        "labels": list(bundle.labels) if bundle.labels else None,
        "proof": dataclasses.asdict(bundle.proof) if bundle.proof else None,
    }
