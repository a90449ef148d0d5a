"""Keras' files into tensors by ``layer/variable``, and back: ``.keras``, ``.h5`` and ``.weights.h5``, of Keras 2 and 3.

Only h5py is needed, never Keras, and nothing in a file is executed: of its configuration the names, classes and
constants of the layers are read. Three kinds of file differ in what they can say:

- ``.keras`` and a whole-model ``.h5`` have the configuration, and with it how images are prepared and what follows the
  network. A network nested in a fine-tuned model is found by the names of its layers.
- A weights-only ``.h5`` has names, but no constants and no stateless layers.
- ``.weights.h5`` numbers the layers of each class (``conv2d_3``). Newer files have the names too; in older ones the
  order is that of the network, which the numbers of layers and their widths tell.

An archive has checksums, an HDF5 file has none, and the HDF5 library itself can crash on one whose bytes were changed:
take ``.h5`` files from where you would take a program.
"""

import dataclasses
import json
import os
import re
import shutil
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.atomic_io import open_regular, written_whole
from effnet_zoo.documents import from_plain
from effnet_zoo.errors import FileError, MissingExtraError, WeightsError
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2, MODELS
from effnet_zoo.layouts.keytable import KeyTable, Role, State, role_of
from effnet_zoo.zoo import catalogue

HDF5 = b"\x89HDF\r\n\x1a\n"
"""How an HDF5 file begins."""

Dataset = Any
"""An h5py.Dataset: h5py has no types."""

Config = Mapping[str, Any]
Document = TypeVar("Document")
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel of an image scaled to 0..1."""

MAX_BYTES = 2 << 30
"""Of all tensors in a file together; the largest network, V2 L, has 0.9 GiB in float64."""

MAX_CONFIG = 32 << 20
"""Bytes of a configuration; V2 L's has 1 MB."""

MAX_ENTRIES = 100_000
"""Of an HDF5 file; V2 L saved with an optimizer of three slots a weight has some 6,000."""

MAX_DEPTH = 64
"""Groups inside groups: a network five models deep has 17. A group can hold itself."""

MAX_EXPANSION = 20
"""How many times its own size a file may unpack to. Keras does not compress; random weights hardly can be."""

CLASSES: dict[Role, str] = {
    "conv": "conv2d",
    "depthwise": "depthwise_conv2d",
    "squeeze": "conv2d",
    "norm": "batch_normalization",
    "linear": "dense",
}
"""What Keras 3 calls the groups of a class's layers, before the number."""

VARIABLES: dict[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
}
"""A layer's variables in the order in which Keras 3 numbers them: trainable ones first (Layer.save_own_variables)."""

TRAINING = {
    "optimizer": "state of the optimizer",
    "optimizer_weights": "state of the optimizer",
    "metrics": "a metric of the training",
    "compile_metrics": "a metric of the training",
    "_compile_metrics": "a metric of the training",
    "loss_tracker": "a metric of the training",
    "_loss_tracker": "a metric of the training",
}
"""Folders at the top of a file that hold no layer, and what they hold instead."""

AVERAGES = "; its moving averages (use_ema) are part of it, which Keras copies into the layers at the end of fit"
PREPARES = "part of how images are prepared"
RANDOM = "state of a random generator"
NOT_BACKBONE = "not of the backbone"

_NETWORK = re.compile(r"stem_(conv|conv_pad|bn|activation)|block\d+._\w+|top_(conv|bn|activation)")
"""Layers of the network itself: the letter of a block leaves the alphabet after its 26th repeat."""

_HEAD = (
    ("GlobalAveragePooling2D", "Dense"),
    ("GlobalAveragePooling2D", "Flatten", "Dense"),
    ("GlobalAveragePooling2D", "Dense", "Activation"),
    ("GlobalAveragePooling2D", "Dense", "Softmax"),
)
"""What may follow the network if it is to be ours, dropout aside."""

_LISTS = ("layer_names", "layer_names0")
"""Attributes that only files with names have: their layers' names, in parts where they are many."""

_DROPOUT = ("Dropout", "FixedDropout")
_RESIZES = ("InputLayer", "Resizing", "CenterCrop")
"""Layers in front of the network that leave the scale of pixels alone. So do all random ones at inference."""

_SILU = ("swish", "silu")
_EPSILON = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasFile:
    """What a file holds.

    Attributes:
        state: Tensors by ``layer/variable``, in Keras' order of axes; the classifier is ``predictions``, whatever its
            name there.
        normalisation: What the layers in front of the network do to pixels 0..255, as mean and standard deviation of
            each channel for pixels 0..1. None if the file does not say, or a layer does something else.
        dropped: Variables left out on purpose, each with the reason.
        classifier_activation: What turns logits into the model's output, ``linear`` if nothing does; None if the file
            does not say or there is no classifier.
        input_size: Height and width that the network was built for; None if the file does not say or any will do.
    """

    state: State
    normalisation: Normalisation | None
    dropped: dict[str, str]
    classifier_activation: str | None
    input_size: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer as a configuration declares it, and the folder of its variables in Keras 3's files."""

    name: str
    kind: str
    config: Config
    folder: str


Variables = dict[str, dict[str, Dataset]]


def read(path: Path, *, backbone_only: bool = False) -> KerasFile:
    """The network in one of Keras' files, found by the names of its layers.

    Args:
        path: A ``.keras``, ``.h5`` or ``.weights.h5`` file; what it is, its content tells.
        backbone_only: Leave the head out, whatever it is.

    Raises:
        MissingExtraError: If h5py is not installed.
        WeightsError: If the file is none of these, is damaged, is larger than its content, has no EfficientNet of
            keras.applications or two, or its head is not average pooling and one dense layer.
    """
    h5py = _h5py()
    try:
        with _opened(path, h5py) as (file, config, training):
            return _read(file, config, training, h5py, backbone_only=backbone_only)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error.__cause__
    except FileError as error:
        raise WeightsError(f"{error}: expected a weight file") from None
    except Exception as error:  # h5py, zipfile and json raise whatever a damaged file makes of them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path} is not a whole file of Keras: {reason[0]}. Expected what model.save or model.save_weights wrote: "
            "save or download it again"
        ) from error


def write(path: Path, state: Mapping[str, Tensor], arch: ArchSpec, *, normalisation: Normalisation | None) -> None:
    """Write a file that ``keras.applications.EfficientNetB0(weights=None)`` loads, whole or not at all.

    Args:
        path: Where to; Keras loads it by its name, which must end in ``.weights.h5``.
        state: Tensors by our keys; without a classifier, for ``include_top=False``.
        arch: The network.
        normalisation: For V1, whose model has a layer that takes it from the file. V2's have constants in their code
            (``include_preprocessing``): None, and what the weights need otherwise is for their user to compute.

    Raises:
        MissingExtraError: If h5py is not installed.
        WeightsError: If the path has another ending, the network is none that Keras' code can build, a tensor is
            missing or left over, or the normalisation is missing for V1 or given for V2.
    """
    h5py = _h5py()
    table = KERAS_V2 if any(stage.fused for stage in arch.stages) else KERAS_V1
    _check_written(path, state, arch, table, normalisation)
    theirs = table.to_theirs(state, arch)
    used: Counter[str] = Counter()
    with written_whole(path) as beside, h5py.File(beside, "w") as file:
        if normalisation is not None:
            mean, std = (np.asarray(values, dtype=np.float64) for values in normalisation)
            count = np.zeros((), dtype=np.int32)  # of adapted batches, which older Keras counted
            _write_layer(file, "normalization", "normalization", [mean.astype("f4"), (std**2).astype("f4"), count])
        for ours, layer in table.modules(arch).items():
            role = role_of(ours)
            keys = [f"{layer}/{form.name}" for form in table.forms[role].values()]
            if keys[0] in theirs:
                group = _numbered(CLASSES[role], used)
                _write_layer(file, group, layer, [_array(theirs[key]) for key in keys])


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            "Keras' files need h5py, which is not installed: pip install 'effnet-zoo[keras]'"
        ) from None
    return h5py


# Opening: a zip or an HDF5 file, and the configurations in it.


@contextmanager
def _opened(path: Path, h5py: ModuleType) -> Iterator[tuple[Any, "_Declared | None", Config]]:
    """The HDF5 file, the model's configuration if there is one, and that of its training."""
    if path.is_dir():
        raise WeightsError("a folder: expected a file; a SavedModel is saved as one by model.save('model.keras')")
    with open_regular(path) as file:
        start, size = file.read(8), os.fstat(file.fileno()).st_size
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive, TemporaryFile() as weights:
            config = _json(archive.read(_member(archive, "config.json", MAX_CONFIG)), _Declared)
            with archive.open(_member(archive, "model.weights.h5", MAX_EXPANSION * size)) as member:
                shutil.copyfileobj(member, weights)
            with h5py.File(weights, "r") as file:
                yield file, config, config.compile_config or {}
    elif start == HDF5:
        with h5py.File(path, "r") as file:
            config, training = file.attrs.get("model_config"), file.attrs.get("training_config")
            yield (
                file,
                _json(config, _Declared) if config else None,
                _json(training, dict[str, Any]) if training else {},
            )
    else:
        raise WeightsError("neither a zip nor an HDF5 file: expected .keras, .h5 or .weights.h5 as Keras writes them")


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> zipfile.ZipInfo:
    if name not in archive.namelist():
        raise WeightsError(f"an archive without {name}: expected what model.save('model.keras') writes")
    member = archive.getinfo(name)
    if member.file_size > limit:
        raise WeightsError(f"{name} in it would unpack to {member.file_size} bytes: expected {limit} at most")
    return member


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    """A model or a layer as a configuration has it. Keras 3 has a name here too, of an operation that is no layer."""

    class_name: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    name: str | None = None
    compile_config: dict[str, Any] | None = None


def _json(text: str | bytes, kind: type[Document]) -> Document:
    if len(text) > MAX_CONFIG:
        raise WeightsError(f"a configuration of {len(text)} bytes: expected {MAX_CONFIG} at most")
    # Not msgspec's reader: Keras writes NaN and Infinity.
    return from_plain(json.loads(text), kind, "its configuration", WeightsError)


def _declared(model: _Declared, folder: str = "") -> Iterator[_Layer]:
    """The layers of a model in order, those of nested models in their place."""
    used: Counter[str] = Counter()
    for layer in from_plain(model.config["layers"], list[_Declared], "its configuration: layers", WeightsError):
        inside = f"{folder}layers/{_numbered(_snake_case(layer.class_name), used)}"
        if "layers" in layer.config:
            if folder.count("/") > MAX_DEPTH:
                raise WeightsError(f"more than {MAX_DEPTH // 2} models inside each other: expected one model")
            yield from _declared(layer, f"{inside}/")
        else:
            name = layer.config.get("name") or layer.name or ""
            yield _Layer(name=str(name), kind=layer.class_name, config=layer.config, folder=inside)


def _snake_case(kind: str) -> str:
    """A class as Keras 3 names its groups: GlobalAveragePooling2D -> global_average_pooling2d."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", kind).lower()


def _numbered(group: str, used: Counter[str]) -> str:
    """The next group of a class: dense, dense_1, dense_2."""
    number = used[group]
    used[group] += 1
    return f"{group}_{number}" if number else group


# Variables by layer: each data set of the file is one, or is left out for a reason.


def _read(file: Any, config: _Declared | None, training: Config, h5py: ModuleType, *, backbone_only: bool) -> KerasFile:
    layers = list(_declared(config)) if config and "layers" in config.config else None
    found = dict(_datasets(file, h5py))
    dropped = _dropped(found, training)
    kept = {key: dataset for key, dataset in found.items() if key not in dropped}
    if any(name in group.attrs for group in (file, file.get("model_weights", file)) for name in _LISTS):
        variables = _named_variables(kept)
    else:
        variables = _numbered_variables(file, kept, layers)
    return _understood(variables, layers, dropped, backbone_only=backbone_only)


def _dropped(found: Iterable[str], training: Config) -> dict[str, str]:
    """Variables that are of no layer, or of no use at inference."""
    optimizer = training.get("optimizer_config") or training.get("optimizer")
    averaged = isinstance(optimizer, dict) and optimizer.get("config", {}).get("use_ema")
    reasons: dict[str, str] = {}
    for key in found:
        if (top := key.partition("/")[0]) in TRAINING:
            reasons[key] = TRAINING[top] + (AVERAGES if averaged and top.startswith("optimizer") else "")
        elif "/seed_generator/" in key or key.endswith("/seed_generator_state"):
            reasons[key] = RANDOM
    return reasons


def _datasets(file: Any, h5py: ModuleType) -> Iterator[tuple[str, Dataset]]:
    """Every data set by its path. Links are followed nowhere: a file must hold what it is read for."""
    waiting, entries = [("", file)], 0
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            entries += 1
            if entries > MAX_ENTRIES or prefix.count("/") > MAX_DEPTH:
                raise WeightsError(
                    f"more than {MAX_ENTRIES} entries, or {MAX_DEPTH} groups inside each other: expected the layers of "
                    "one model"
                )
            path = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise WeightsError(f"{path} is a link to elsewhere: expected the tensors themselves")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((f"{path}/", item))
            elif item.external or item.is_virtual:
                raise WeightsError(f"{path} is in another file: expected the tensors themselves")
            else:
                yield path, item


def _named_variables(found: Mapping[str, Dataset]) -> Variables:
    """Of a file that has names: layer/layer/kernel:0, or model/layer/kernel where the network is nested."""
    variables: Variables = defaultdict(dict)
    for key, dataset in found.items():
        parts = key.removeprefix("model_weights/").split("/")
        variable = parts[-1].partition(":")[0]
        # TensorFlow numbers a variable whose name is taken (stem_conv_1/kernel:0), but not its layer's folder.
        layer = parts[0] if _NETWORK.fullmatch(parts[0]) else parts[-2 if len(parts) > 1 else 0]
        _add(variables, layer, "kernel" if variable == "depthwise_kernel" else variable, dataset)
    return variables


def _numbered_variables(file: Any, found: Mapping[str, Dataset], layers: Sequence[_Layer] | None) -> Variables:
    """Of a file of Keras 3: layers/conv2d_3/vars/0."""
    names = _names(file, found, layers)
    variables: Variables = defaultdict(dict)
    for key, dataset in found.items():
        folder, number = _folder(key), key.rpartition("/")[2]
        known = VARIABLES.get(_class_of(folder), ())
        variable = known[int(number)] if number.isdecimal() and int(number) < len(known) else number
        _add(variables, names[folder], variable, dataset)
    return variables


def _add(variables: Variables, layer: str, variable: str, dataset: Dataset) -> None:
    if variable in variables[layer]:
        raise WeightsError(f"two layers are named {layer}: expected one EfficientNet; save the one you mean alone")
    variables[layer][variable] = dataset


def _folder(key: str) -> str:
    """layers/conv2d_3 of layers/conv2d_3/vars/0. TensorFlow 2.13 called ``layers`` otherwise."""
    return key.rpartition("/vars/")[0].replace("_layer_checkpoint_dependencies", "layers")


def _class_of(folder: str) -> str:
    return re.sub(r"_\d+$", "", folder.rpartition("/")[2])


def _names(file: Any, found: Mapping[str, Dataset], layers: Sequence[_Layer] | None) -> dict[str, str]:
    """The name of each folder's layer: from the configuration, from the file, or by position; else the folder's."""
    folders = {_folder(key): key.rpartition("/")[0] for key in found}
    declared = {layer.folder: layer.name for layer in layers or ()}
    names = {
        folder: declared.get(folder) or _text(file[group].attrs.get("name")) or folder
        for folder, group in folders.items()
    }
    if any(_NETWORK.fullmatch(name) for name in names.values()):
        return names
    return {**names, **_by_position(folders, found)}


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _by_position(folders: Mapping[str, str], found: Mapping[str, Dataset]) -> dict[str, str]:
    """Names of the network's layers in a file that only numbers them, from the one network that has as many.

    Everything but stem and head width follows from the numbers of layers; shapes are for the loader to check.
    """
    parents = {folder.rpartition("/")[0] for folder in folders if _class_of(folder) == "depthwise_conv2d"}
    if len(parents) != 1:
        raise WeightsError(
            f"{len(parents)} networks with depthwise convolutions: expected one EfficientNet of keras.applications"
        )
    inside = sorted((folder for folder in folders if folder.rpartition("/")[0] in parents), key=_number)
    counted = Counter(_class_of(folder) for folder in inside)
    convs = [folder for folder in inside if _class_of(folder) == "conv2d"]
    widths = [found[f"{folders[convs[end]]}/0"].shape[-1] for end in (0, -1)] if convs else []
    for table, name in MODELS.values():
        arch = catalogue.models()[name].spec
        expected = layers_by_class(table, arch)
        if widths == [arch.stem_filters, arch.head_filters] and all(
            counted[group] == len(layers) for group, layers in expected.items()
        ):
            return {
                folder: layer
                for group, layers in expected.items()
                for folder, layer in zip((one for one in inside if _class_of(one) == group), layers, strict=True)
            }
    raise WeightsError(
        f"its layers have no names, and no network of keras.applications has {counted['conv2d']} convolutions and "
        f"{counted['depthwise_conv2d']} depthwise ones: expected one of {', '.join(MODELS)}, or a file saved by "
        "model.save('model.keras')"
    )


def _number(folder: str) -> int:
    number = re.search(r"_(\d+)$", folder)
    return int(number[1]) if number else 0


def layers_by_class(table: KeyTable, arch: ArchSpec) -> dict[str, list[str]]:
    """The layers of a network by class, in order; without the classifier, which need not be there."""
    layers: dict[str, list[str]] = defaultdict(list)
    for ours, theirs in table.modules(arch).items():
        if role_of(ours) != "linear":
            layers[CLASSES[role_of(ours)]].append(theirs)
    return layers


# Understanding: the network, its head, and what stands in front.


def _understood(
    variables: Variables, layers: Sequence[_Layer] | None, dropped: dict[str, str], *, backbone_only: bool
) -> KerasFile:
    network = {name: found for name, found in variables.items() if _NETWORK.fullmatch(name)}
    if "stem_conv" not in network:
        some = ", ".join(list(variables)[:3]) or "none"
        raise WeightsError(
            f"no layer stem_conv among its layers ({some}, ...): expected an EfficientNet of keras.applications, whose "
            "layers have kept their names"
        )
    normalizations = {name: found for name, found in variables.items() if {"mean", "variance"} <= found.keys()}
    classifiers = {
        name: found
        for name, found in variables.items()
        if name not in network and found.keys() == {"kernel", "bias"} and found["kernel"].ndim == 2
    }
    others = variables.keys() - network.keys() - normalizations.keys() - classifiers.keys()
    if backbone_only:
        left = sorted(others | classifiers.keys())
        dropped.update({f"{name}/{variable}": NOT_BACKBONE for name in left for variable in variables[name]})
        classifiers, others = {}, set()
    if others or len(classifiers) > 1:
        names = ", ".join(sorted(others or classifiers))
        raise WeightsError(
            f"layers beside the network that ours has no place for ({names}): expected one dense layer, the "
            "classifier, or none; convert --backbone-only leaves them out"
        )
    dropped.update({f"{name}/{variable}": PREPARES for name, found in normalizations.items() for variable in found})
    for found in classifiers.values():
        network["predictions"] = found
    state = _tensors({f"{name}/{key}": dataset for name, found in network.items() for key, dataset in found.items()})
    front, head = ([], []) if layers is None else _around(layers)
    return KerasFile(
        state=state,
        normalisation=_normalisation(front, normalizations, channels=state["stem_conv/kernel"].shape[-2]),
        dropped=dropped,
        classifier_activation=_classifier_activation(head) if classifiers and layers is not None else None,
        input_size=_input_size(front, layers or ()),
    )


def _tensors(datasets: Mapping[str, Dataset]) -> State:
    size = 0
    for key, dataset in datasets.items():
        if dataset.nbytes > MAX_EXPANSION * dataset.id.get_storage_size():
            raise WeightsError(f"{key} has {dataset.nbytes} bytes, of which the file holds next to none: save it again")
        size += dataset.nbytes
    if size > MAX_BYTES:
        raise WeightsError(f"{size} bytes of tensors: expected one network, {MAX_BYTES} at most")
    return {key: _tensor(key, dataset) for key, dataset in datasets.items()}


def _tensor(key: str, dataset: Dataset) -> Tensor:
    if dataset.dtype.kind == "V" and _text(dataset.attrs.get("dtype")) == "bfloat16":
        return torch.from_numpy(dataset[()].view(np.int16)).view(torch.bfloat16)
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise WeightsError(f"{key} is of type {dataset.dtype}: expected floating point; quantised files cannot be read")
    return torch.from_numpy(np.asarray(dataset[()], dtype=dataset.dtype.newbyteorder("=")))


def _around(layers: Sequence[_Layer]) -> tuple[list[_Layer], list[_Layer]]:
    """The layers in front of the network and those behind it.

    Raises:
        WeightsError: If there are others in between, or one of the network's is not as keras.applications builds it.
    """
    inside = [index for index, layer in enumerate(layers) if _NETWORK.fullmatch(layer.name)]
    if not inside:
        raise WeightsError("its configuration names other layers than its weights do: save the model again")
    for layer in layers[inside[0] : inside[-1] + 1]:
        if not _NETWORK.fullmatch(layer.name):
            raise WeightsError(f"layer {layer.name} ({layer.kind}) is inside the network: expected an unchanged one")
        _check_numerics(layer)
    return list(layers[: inside[0]]), list(layers[inside[-1] + 1 :])


def _check_numerics(layer: _Layer) -> None:
    epsilon = layer.config.get("epsilon", _EPSILON)
    if not np.isclose(epsilon, _EPSILON):
        raise WeightsError(f"layer {layer.name} has epsilon {epsilon}: expected keras.applications' {_EPSILON}")
    if "activation" not in layer.config:
        return
    expected: tuple[str, ...] = ("linear",)
    if layer.name.endswith(("activation", "se_reduce")):
        expected = _SILU
    elif layer.name.endswith("se_expand"):
        expected = ("sigmoid",)
    if (given := _activation(layer.config["activation"])) not in expected:
        raise WeightsError(f"layer {layer.name} has activation {given}: expected {expected[0]}")


def _activation(value: Any) -> str:
    """The name of an activation, which Keras writes as a name or as an object."""
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return "linear" if value is None else str(value).lower()


def _classifier_activation(head: Sequence[_Layer]) -> str:
    rest = [layer for layer in head if layer.kind not in _DROPOUT]
    if tuple(layer.kind for layer in rest) not in _HEAD:
        shown = ", ".join(f"{layer.name} ({layer.kind})" for layer in head)
        raise WeightsError(
            f"its head is {shown}: expected GlobalAveragePooling2D, dropout or none, and one Dense; convert "
            "--backbone-only leaves it out"
        )
    dense, last = next(layer for layer in rest if layer.kind == "Dense"), rest[-1]
    activation = _activation(dense.config.get("activation"))
    if last is dense:
        return activation
    if activation != "linear":
        raise WeightsError(f"its head has two activations, in {dense.name} and in {last.name}: expected one")
    return "softmax" if last.kind == "Softmax" else _activation(last.config.get("activation"))


def _normalisation(front: Sequence[_Layer], normalizations: Variables, channels: int) -> Normalisation | None:
    """The layers in front of the network as one, if each of them scales and shifts channels.

    V1 with ImageNet's weights has three: 1/255, a Normalization whose variance is the standard deviation, and a second
    Rescaling by 1/sqrt(standard deviation) (keras/src/applications/efficientnet.py; tensorflow issue 49930).
    """
    scale, offset = np.full(channels, 255.0), np.zeros(channels)
    steps = [layer for layer in front if not (layer.kind in _RESIZES or _is_augmentation(layer))]
    for layer in steps:
        affine = _affine(layer, normalizations.get(layer.name, {}), channels)
        if affine is None:
            return None
        scale, offset = scale * affine[0], offset * affine[0] + affine[1]
    # Without any such layer the images were prepared outside, in a way that the file does not say.
    if not steps or not np.isfinite([scale, offset]).all() or not scale.all():
        return None
    return tuple((0 - offset / scale).tolist()), tuple((1 / scale).tolist())


def _is_augmentation(layer: _Layer) -> bool:
    return layer.kind.startswith("Random") and layer.kind != "RandomCrop"


def _affine(layer: _Layer, variables: Mapping[str, Dataset], channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and offset of each channel that a layer applies, or None if it is not of that kind."""
    config = layer.config
    if layer.kind == "Rescaling":
        scale, offset = (_channels(config.get(key), channels) for key in ("scale", "offset"))
        return None if scale is None or offset is None else (scale, offset)
    if layer.kind != "Normalization" or config.get("invert"):
        return None
    given = [config.get(key) if config.get(key) is not None else variables.get(key) for key in ("mean", "variance")]
    mean, variance = (_channels(value, channels) for value in given)
    if mean is None or variance is None:
        return None
    std = np.maximum(np.sqrt(variance), 1e-7)  # keras.config.epsilon(), what Normalization divides by at least
    return 1 / std, -mean / std


def _channels(value: Any, channels: int) -> np.ndarray | None:
    """A constant as one number a channel, or None if it is not that. Keras 3 writes arrays as objects."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("value")
    if value is None or (hasattr(value, "nbytes") and value.nbytes > 8 * channels):
        return None
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    return np.broadcast_to(array, channels) if array.size in (1, channels) else None


def _input_size(front: Sequence[_Layer], layers: Sequence[_Layer]) -> tuple[int, int] | None:
    shapes = [layer.config.get("batch_shape") or layer.config.get("batch_input_shape") for layer in front]
    shape = next((shape for shape in reversed(shapes) if shape), None)
    stem = next((layer.config for layer in layers if layer.name == "stem_conv"), {})
    if not isinstance(shape, list) or len(shape) != 4:
        return None
    height, width = shape[2:] if stem.get("data_format") == "channels_first" else shape[1:3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


# Writing.


def _check_written(
    path: Path, state: Mapping[str, Tensor], arch: ArchSpec, table: KeyTable, normalisation: Normalisation | None
) -> None:
    if not path.name.endswith(".weights.h5"):
        raise WeightsError(f"{path}: expected a name that ends in .weights.h5, by which Keras loads it")
    squeezes = all(block.se_filters for stage in arch.blocks() for block in stage if block.kind in KERAS_V1.blocks)
    expected = {"activation": "silu", "padding": "same", "bn_eps": _EPSILON, "squeeze-excite": True}
    given = {
        "activation": arch.activation,
        "padding": arch.padding,
        "bn_eps": arch.bn_eps,
        "squeeze-excite": squeezes,
    }
    if given != expected:
        raise WeightsError(f"{path}: keras.applications has no such network: expected {expected}, got {given}")
    if (normalisation is None) == (table is KERAS_V1):
        raise WeightsError(
            f"{path}: expected a normalisation for V1, whose file holds it, and None for V2, whose code fixes it"
        )
    if missing := [key for key in table.keys(arch) if key not in state and not _is_headless(key, state)]:
        raise WeightsError(f"{path}: {len(missing)} tensors are missing ({missing[0]}, ...): expected a whole network")


def _is_headless(key: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a key is of a classifier that a state dict does not have at all."""
    return key.startswith("classifier.") and not any(other.startswith("classifier.") for other in state)


def _write_layer(file: Any, group: str, name: str, values: Sequence[np.ndarray]) -> None:
    folder = file.create_group(f"layers/{group}/vars")
    folder.attrs["name"] = name
    for number, value in enumerate(values):
        folder.create_dataset(str(number), data=value)


def _array(tensor: Tensor) -> np.ndarray:
    """In float32, which Keras reads everywhere, unless it is float64."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).contiguous().numpy()
