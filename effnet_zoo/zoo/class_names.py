"""Class names: of ImageNet, or from a text file, JSON, or the folders of a training set."""

import csv
import importlib.util
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from effnet_zoo import atomic_io, documents
from effnet_zoo.errors import InputError, quoted

_SYNSETS = {
    1000: "imagenet_synsets.txt",
    11221: "imagenet21k_miil_synsets.txt",
    11821: "imagenet12k_synsets.txt",
    21841: "imagenet22k_synsets.txt",
    21842: "imagenet22k_ms_synsets.txt",
    21843: "imagenet21k_goog_synsets.txt",
}
"""timm's list of ImageNet classes, in the order of the logits, by the number of classes."""


def class_names(num_classes: int, labels: Sequence[str] | None = None) -> list[str]:
    """Return a name for each class, in the order of the logits.

    They are `labels`, the checkpoint's own names; or without labels ImageNet's names, if ImageNet models have this
    number of classes. In any other case, as with labels of another number, the classes are numbered.
    """
    if labels is not None and len(labels) == num_classes:
        return list(labels)
    if labels is not None or num_classes not in _SYNSETS:
        return [f"class {index}" for index in range(num_classes)]
    lemmas = dict(csv.reader(_timm_list("imagenet_synset_to_lemma.txt"), delimiter="\t"))
    return [lemmas[synset] for synset in _timm_list(_SYNSETS[num_classes])]


def _timm_list(name: str) -> list[str]:
    """Return the lines of a file that timm ships. timm itself, which takes seconds to import, is not imported."""
    timm = importlib.util.find_spec("timm")
    assert timm, "timm is a dependency of this package"
    return atomic_io.read_text(Path(str(timm.origin)).parent / "data" / "_info" / name).splitlines()


def read_labels(path: Path) -> tuple[str, ...]:
    """Return class names in the order of the logits.

    `path` is a text file with a name a line; JSON with a list, with ``{"0": name}``, or with ``{name: 0}`` as
    torchvision's ``class_to_idx``; or an ImageFolder, whose classes are its subfolders in sorted order.
    """
    with atomic_io.file_errors(path):
        if path.is_dir():
            return checked_labels(sorted(entry.name for entry in path.iterdir() if entry.is_dir()), str(path))
    text = atomic_io.read_text(path)
    is_json = path.suffix == ".json"
    names = _from_json(text, path) if is_json else text.replace("\r\n", "\n").rstrip().split("\n")
    return checked_labels(names, str(path))


def checked_labels(names: Iterable[str], source: str) -> tuple[str, ...]:
    """Return class names without the spaces around them, each a text of one line. `source` is their place in errors.

    Two classes may have the same name: ImageNet has two cranes and two maillots.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"{source}: found {quoted(names)}: expected a list of class names")
    found = [name.strip() if isinstance(name, str) else name for name in names]
    if not found:
        raise InputError(f"{source}: expected class names, one a line, as JSON, or as subfolders; found none")
    for index, name in enumerate(found):
        if not isinstance(name, str) or not name:
            raise InputError(f"{source}: class {index} is {quoted(name)}: expected a name")
        # Control characters, line and paragraph separators, and bytes that are not UTF-8.
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
            raise InputError(f"{source}: class {index} is {quoted(name)}: expected a name without control characters")
    return tuple(found)


def _from_json(text: str, path: Path) -> list[str]:
    value = documents.from_json(text, list[str] | dict[str, str | int], str(path), InputError)  # type: ignore[arg-type]
    if isinstance(value, list):
        return value
    names = {str(index): name for name, index in value.items() if isinstance(index, int)} or value
    wanted = [str(index) for index in range(len(value))]
    if names.keys() == set(wanted) and all(isinstance(name, str) for name in names.values()):
        return [str(names[index]) for index in wanted]
    raise InputError(f'{path}: expected a JSON list of names, {{"0": name, ...}} or {{name: 0, ...}} without gaps')
