"""Exported files read back: what they say of themselves, and what they compute of image files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effnet_zoo.atomic_io import open_regular, sha256
from effnet_zoo.checkpoints.pretrained_cfg import image_fields
from effnet_zoo.errors import EngineError, InputError, WeightsError, first_line
from effnet_zoo.images.reader import Reader, read_whole
from effnet_zoo.images.transform import normalised
from effnet_zoo.runtime.formats import FORMATS, Declared, Readable, Shape
from effnet_zoo.runtime.record import Record
from effnet_zoo.runtime.sessions import check_process

READABLE = {one.suffix: one for one in FORMATS.values() if isinstance(one, Readable)}
"""By suffix, the formats that are data: PyTorch's files are programs, which run whatever they please when loaded."""


class Exported:
    """An exported classifier, for `predict` and `embed`.

    Args:
        path: An ``.onnx`` file or an OpenVINO ``.xml``, written by `export` or `quantize`.

    Attributes:
        record: What the file says of itself.
        num_classes: 0 if it gives features.
        head_hidden_size: Features of an image, if it gives these.
        pretrained_cfg: Preprocessing and class names, as a model has them.
        dtype: What it computes in.
        fingerprint: SHA-256, in hex, of the file, and of the files that belong to it.

    Raises:
        WeightsError: If it is damaged, has no record or one that is not true of its graph, or nobody knows how its
            images are prepared.
        InputError: If there is no such file, or it is of another kind, or no regular file.
        MissingExtraError: If its runtime is not installed.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in READABLE:
            raise InputError(f"{path}: expected {' or '.join(READABLE)}, as export writes them")
        kind = READABLE[path.suffix]
        files = [path.with_suffix(suffix) for suffix in (kind.suffix, *kind.companions)]
        for file in files:
            open_regular(file).close()  # a runtime would wait for a FIFO's writer for ever
        kind.check_installed()
        declared = kind.declared(path)
        self.path, self.record = path, Record.from_json(declared.record, str(path))
        if self.record.images is None:
            raise WeightsError(
                f"{path}: how its images are to be prepared is not in the file: export it with that known"
            )
        _check_declared(path, self.record, declared)
        self.fingerprint = "".join(sha256(file) for file in files)
        self.num_classes = 0 if self.record.output == "features" else self.record.outputs
        self.head_hidden_size = self.record.outputs
        self.pretrained_cfg: dict[str, Any] = {
            **image_fields(self.record.images, 3),
            "num_classes": self.num_classes,
            "label_names": list(self.record.labels) or None,
        }
        self.dtype = self.record.interface.dtype
        self._run, self._process = kind.run(path, torch.device("cpu")), os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return Exported, (self.path,)

    def __repr__(self) -> str:
        return f"Exported({self.path})"

    def read(self, path: Path, *, orientation: bool = True) -> Tensor:
        """Returns an image file as the uint8 pixels (3, height, width) that are to be given.

        Args:
            path: An image file.
            orientation: Whether the image is turned as its EXIF orientation says.

        Raises:
            InputError: If it is missing, unreadable, too large, or not an image.
        """
        how = self.record.images
        assert how is not None
        if self.record.interface.resize:
            return read_whole(path, how, orientation=orientation)
        return Reader(how, orientation=orientation)(path)

    def __call__(self, pixels: Sequence[Tensor]) -> Tensor:
        """Returns float32 (n, outputs) of what `read` gives; the logarithm of probabilities, which serves as logits.

        Raises:
            EngineError: If the runtime fails.
        """
        check_process(self._process, str(self.path))
        interface, how = self.record.interface, self.record.images
        assert how is not None
        if interface.pixels is None:
            batches = [normalised(pixels, how)]
        else:
            # Images of several sizes cannot be given together.
            batches = [image[None] for image in pixels] if interface.resize else [torch.stack(list(pixels))]
            if interface.pixels == "nhwc":
                batches = [batch.permute(0, 2, 3, 1) for batch in batches]
        try:
            outputs = torch.cat([self._run(batch) for batch in batches])
        except Exception as error:  # of the runtime's own kinds, which nobody can list
            raise EngineError(f"{self.path}: {first_line(error)}") from error
        if not interface.softmax:
            return outputs
        # A probability that is rounded to 0 would have no finite logarithm.
        return outputs.clamp_min(torch.finfo(torch.float32).tiny).log()


def _check_declared(path: Path, record: Record, declared: Declared) -> None:
    """Checks that a graph takes and gives what its record says, before anything is made of a size in the record.

    Raises:
        WeightsError: If it does not.
    """
    sides: Shape = record.interface.size if not record.interface.any_size and record.interface.size else (None, None)
    given: Shape = (*sides, 3) if record.interface.pixels == "nhwc" else (3, *sides)
    for what, said, found in (
        ("images", given, declared.given[1:]),
        ("outputs", (record.outputs,), declared.wanted[1:]),
    ):
        if said != found:
            raise WeightsError(
                f"{path}: its record says {what} of shape {_shown(said)}, its graph {_shown(found)}: export it again"
            )


def _shown(shape: Shape) -> str:
    return "x".join("any" if side is None else str(side) for side in shape)
