"""Class names from a list, JSON, or the folders of a training set."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from effnet_zoo import atomic_io, documents
from effnet_zoo.errors import InputError, quoted


def read_labels(path: Path) -> tuple[str, ...]:
    """Returns class names in the order of the logits.

    Args:
        path: A text file with a name a line; JSON with a list, with ``{"0": name}``, or with ``{name: 0}`` as
            torchvision's ``class_to_idx``; or an ImageFolder, whose classes are its subfolders in sorted order.

    Raises:
        InputError: If it is none of these, has gaps, or a name is refused by `checked_labels`.
        FileError: If it cannot be read, or is not a regular file.
    """
    with atomic_io.file_errors(path):
        if path.is_dir():
            return checked_labels(sorted(entry.name for entry in path.iterdir() if entry.is_dir()), str(path))
    text = atomic_io.read_text(path)
    if path.suffix == ".json":
        return checked_labels(_from_json(text, path), str(path))
    return checked_labels(text.replace("\r\n", "\n").rstrip().split("\n"), str(path))


def checked_labels(names: Iterable[str], source: str) -> tuple[str, ...]:
    """Returns class names without spaces around them.

    Two classes may have the same name: ImageNet has two cranes and two maillots.

    Args:
        names: In the order of the logits.
        source: What to call them in errors.

    Raises:
        InputError: If there are none, one is no text or is empty, or one has a line end or another control character.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"{source}: found {quoted(names)}: expected a list of class names")
    found = list(names)
    if not found:
        raise InputError(f"{source}: expected class names, one a line, as JSON, or as subfolders; found none")
    for index, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{source}: class {index} is {quoted(name)}: expected a name")
        # Control characters, line and paragraph separators, and bytes that are not UTF-8.
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name.strip()):
            raise InputError(f"{source}: class {index} is {quoted(name)}: expected a name without control characters")
    return tuple(name.strip() for name in found)


def _from_json(text: str, path: Path) -> list[str]:
    value = documents.from_json(text, list[str] | dict[str, str | int], str(path), InputError)  # type: ignore[arg-type]
    if isinstance(value, list):
        return value
    names = {str(index): name for name, index in value.items() if isinstance(index, int)} or value
    wanted = [str(index) for index in range(len(value))]
    if names.keys() == set(wanted) and all(isinstance(name, str) for name in names.values()):
        return [str(names[index]) for index in wanted]
    raise InputError(f'{path}: expected a JSON list of names, {{"0": name, ...}} or {{name: 0, ...}} without gaps')
