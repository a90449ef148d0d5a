"""Class names from a list, JSON, or the folders of a training set."""

import json
from pathlib import Path
from typing import Any

from effnet_zoo.atomic_io import file_errors, read_text
from effnet_zoo.errors import InputError


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits.

    Args:
        path: A text file with a name a line; JSON with a list, with ``{"0": name}``, or with ``{name: 0}`` as
            torchvision's ``class_to_idx``; or an ImageFolder, whose classes are its subfolders in sorted order.

    Raises:
        InputError: If it is none of these, or has gaps.
    """
    if path.is_dir():
        with file_errors(path):
            found = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    else:
        text = read_text(path)
        found = _from_json(text, path) if path.suffix == ".json" else text.rstrip().splitlines()
        found = [name.strip() for name in found]
    if not found or not all(found):
        raise InputError(f"{path}: expected class names, one a line, as JSON, or as subfolders; found an empty one")
    return tuple(found)


def _from_json(text: str, path: Path) -> list[str]:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, dict):
        wanted = [str(index) for index in range(len(value))]
        if all(isinstance(index, int) for index in value.values()):  # class_to_idx
            value = {str(index): name for name, index in value.items()}
        if value.keys() == set(wanted) and all(isinstance(name, str) for name in value.values()):
            return [value[index] for index in wanted]
    raise InputError(f'{path}: expected a JSON list of names, {{"0": name, ...}} or {{name: 0, ...}} without gaps')
