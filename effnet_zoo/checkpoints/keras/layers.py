"""Find out which layer each data set of a Keras file belongs to."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.keras.hdf5 import MAX_DEPTH, Dataset, Declaration, text_of
from effnet_zoo.documents import from_plain
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keras import KERAS_FORMS, MODELS
from effnet_zoo.layouts.keytable import KeyTable, Role, role_of
from effnet_zoo.zoo import catalogue

CLASSES: dict[Role, str] = {
    "conv": "conv2d",
    "depthwise": "depthwise_conv2d",
    "squeeze": "conv2d",
    "norm": "batch_normalization",
    "linear": "dense",
}
"""Keras 3's names for the groups of each class of layers, before the number."""

VARIABLES = {
    **{CLASSES[role]: tuple(form.name for form in forms.values()) for role, forms in KERAS_FORMS.items()},
    "normalization": ("mean", "variance", "count"),
}
"""A layer's variables in the order in which Keras 3 numbers them: trainable ones first (Layer.save_own_variables)."""

OF_NETWORK = re.compile(r"stem_(conv|conv_pad|bn|activation)|block\d+._\w+|top_(conv|bn|activation)")
"""Names of the layers of the network itself: the letter of a block leaves the alphabet after its 26th repeat."""

NAME_LISTS = ("layer_names", "layer_names0")
"""Attributes with the names of the layers, which only files of Keras 2's format have; in parts if they are many."""

Variables = dict[str, dict[str, Dataset]]
"""Data sets by layer and variable."""


def declared_layers(model: Declaration, folder: str = "") -> Iterator[Declaration]:
    """Yield the layers of a model in order, those of nested models in their place."""
    used: Counter[str] = Counter()
    for layer in from_plain(model.config["layers"], list[Declaration], "its configuration: layers", WeightsError):
        # The group of GlobalAveragePooling2D is global_average_pooling2d.
        group = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", layer.class_name).lower()
        inside = f"{folder}layers/{numbered(group, used)}"
        if "layers" in layer.config:
            if folder.count("/") > MAX_DEPTH:
                raise WeightsError(f"more than {MAX_DEPTH // 2} models inside each other: expected one model")
            yield from declared_layers(layer, f"{inside}/")
        else:
            name = layer.config.get("name") or layer.name or ""
            yield dataclasses.replace(layer, name=str(name), folder=inside)


def numbered(group: str, used: Counter[str]) -> str:
    """Return the name of the next group of a class: dense, dense_1, dense_2."""
    used[group] += 1
    return f"{group}_{used[group] - 1}" if used[group] > 1 else group


def variables_by_layer(hdf5: Any, datasets: Mapping[str, Dataset], layers: Sequence[Declaration] | None) -> Variables:
    """Return the data sets of a file by layer and variable, with the layers of its configuration if it has one."""
    has_names = any(name in group.attrs for group in (hdf5, hdf5.get("model_weights", hdf5)) for name in NAME_LISTS)
    names = {} if has_names else _names(hdf5, datasets, layers)
    variables: Variables = defaultdict(dict)
    for key, dataset in datasets.items():
        layer, variable = _named(key) if has_names else _numbered(key, names)
        if variable in variables[layer]:
            raise WeightsError(f"two layers are named {layer}: expected one EfficientNet; save the one you mean alone")
        variables[layer][variable] = dataset
    return variables


def _named(key: str) -> tuple[str, str]:
    """Return layer and variable of layer/layer/kernel:0, or of model/layer/kernel where the network is nested."""
    parts = key.removeprefix("model_weights/").split("/")
    variable = parts[-1].partition(":")[0]
    # TensorFlow numbers a variable whose name is taken (stem_conv_1/kernel:0), but not its layer's folder.
    layer = parts[0] if OF_NETWORK.fullmatch(parts[0]) else parts[-2 if len(parts) > 1 else 0]
    return layer, "kernel" if variable == "depthwise_kernel" else variable


def _numbered(key: str, names: Mapping[str, str]) -> tuple[str, str]:
    """Return layer and variable of layers/conv2d_3/vars/0."""
    folder, number = _folder(key), key.rpartition("/")[2]
    known = VARIABLES.get(_split(folder)[1], ())
    return names[folder], known[int(number)] if number.isdecimal() and int(number) < len(known) else number


def _folder(key: str) -> str:
    """Return layers/conv2d_3 of layers/conv2d_3/vars/0. TensorFlow 2.13 called ``layers`` otherwise."""
    return key.rpartition("/vars/")[0].replace("_layer_checkpoint_dependencies", "layers")


def _split(folder: str) -> tuple[str, str, int]:
    """Return layers, conv2d and 3 of layers/conv2d_3. The first layer of a class has no number."""
    parent, _, name = folder.rpartition("/")
    group, _, number = name.rpartition("_")
    return (parent, group, int(number)) if number.isdecimal() else (parent, name, 0)


def _names(hdf5: Any, datasets: Mapping[str, Dataset], layers: Sequence[Declaration] | None) -> dict[str, str]:
    """Return the name of each folder's layer: from the configuration, from the file, or by position."""
    folders = {_folder(key): key.rpartition("/")[0] for key in datasets}
    declared = {layer.folder: layer.name for layer in layers or ()}
    names = {
        folder: declared.get(folder) or text_of(hdf5[group].attrs.get("name")) or folder
        for folder, group in folders.items()
    }
    if any(OF_NETWORK.fullmatch(name) for name in names.values()):
        return names
    return {**names, **_names_by_position(folders, datasets)}


def _names_by_position(folders: Mapping[str, str], datasets: Mapping[str, Dataset]) -> dict[str, str]:
    """Return names of the network's layers in a file that only numbers them, from the one network that has as many.

    All but the widths of stem and head follows from the numbers of layers. The loader checks the shapes.
    """
    parents = {parent for parent, group, _ in map(_split, folders) if group == "depthwise_conv2d"}
    if len(parents) != 1:
        raise WeightsError(
            f"{len(parents)} networks with depthwise convolutions: expected one EfficientNet of keras.applications"
        )
    inside: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(folders, key=lambda folder: _split(folder)[2]):
        parent, group, _ = _split(folder)
        if parent in parents:
            inside[group].append(folder)
    convs = inside["conv2d"]
    widths = [datasets[f"{folders[convs[end]]}/0"].shape[-1] for end in (0, -1)] if convs else []
    for table, name in MODELS.values():
        arch = catalogue.models()[name].spec
        expected = layers_by_class(table, arch)
        same = all(len(inside[group]) == len(layers) for group, layers in expected.items())
        if same and widths == [arch.stem_filters, arch.head_filters]:
            pairs = (zip(inside[group], layers, strict=True) for group, layers in expected.items())
            return {folder: layer for pair in pairs for folder, layer in pair}
    raise WeightsError(
        f"its layers have no names, and no network of keras.applications has {len(convs)} convolutions and "
        f"{len(inside['depthwise_conv2d'])} depthwise ones: expected one of {', '.join(MODELS)}, or a file saved by "
        "model.save('model.keras')"
    )


def layers_by_class(table: KeyTable, arch: ArchSpec) -> dict[str, list[str]]:
    """Return the layers of a network by class, in order; without the classifier, which is optional."""
    layers: dict[str, list[str]] = defaultdict(list)
    for ours, theirs in table.modules(arch).items():
        if role_of(ours) != "linear":
            layers[CLASSES[role_of(ours)]].append(theirs)
    return layers
