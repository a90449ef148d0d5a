"""Write a bundle in a layout: the weight file, and the files that belong beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from effnet_zoo.checkpoints import config_json, statefile
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.keras.reading import Normalisation
from effnet_zoo.checkpoints.keras.writing import UNCHANGED, write_keras_file
from effnet_zoo.layouts import LAYOUTS, OURS, Layout
from effnet_zoo.layouts.layout import NetworkDescription

SUMMARY = "conversion.json"
"""The file with `summary` beside weights in another library's layout."""


def write_weight_file(path: Path, bundle: Bundle, layout: Layout, normalisation: Normalisation = UNCHANGED) -> None:
    """Write a bundle's weights as a library stores them; the normalisation only where its file holds one."""
    if path.suffix == ".h5":
        write_keras_file(path, bundle.state, bundle.arch, normalisation)
    else:
        statefile.write(path, layout.table.to_theirs(bundle.state, bundle.arch))


def write_folder(bundle: Bundle, folder: Path, layout: Layout = OURS) -> None:
    """Write a bundle's weights in a layout, and what its library keeps beside them, into a folder."""
    assert bundle.images is not None
    if layout is OURS:
        # The notes of the record are in config.json, and the proof is one of them.
        notes = [*(bundle.record.get("notes") or ()), *([str(bundle.proof)] if bundle.proof else [])]
        record = {**bundle.record, "notes": list(dict.fromkeys(notes))}
        bundle.write_weights(folder)
        text = dataclasses.replace(bundle, record=record).config_json()
        (folder / config_json.FILENAME).write_text(text, encoding="utf-8")
        return
    write_weight_file(folder / layout.filename, bundle, layout, (bundle.images.mean, bundle.images.std))
    documents: dict[str, Any] = {SUMMARY: summary(bundle)}
    if layout.config_files:
        network = description_of(bundle)
        assert network is not None
        documents |= layout.config_files.write(network, bundle.labels, bundle.images)
    for name, content in documents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def description_of(bundle: Bundle) -> NetworkDescription | None:
    """Return the network of a bundle as other libraries can be asked for it; None if the network is not a variant."""
    variant = config_json.variant_of(bundle.arch)
    if variant is None:
        return None
    return NetworkDescription(
        variant=variant,
        arch=bundle.arch,
        num_classes=bundle.num_classes,
        in_chans=bundle.options["in_chans"],
        global_pool=bundle.options.get("global_pool", "avg"),
        output_stride=bundle.options.get("output_stride"),
    )


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
