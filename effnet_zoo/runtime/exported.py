"""An exported file as a function of image files. An ONNX file or an OpenVINO IR is run without torch."""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from effnet_zoo.atomic_io import open_regular, sha256
from effnet_zoo.errors import EngineError, InputError, WeightsError, first_line
from effnet_zoo.images.reader import Resizer
from effnet_zoo.images.transform import Pixels
from effnet_zoo.runtime.inputs import graph_input, read_pixels
from effnet_zoo.runtime.metadata import Metadata
from effnet_zoo.runtime.targets import READABLE
from effnet_zoo.runtime.targets.target import Declaration, Shape
from effnet_zoo.zoo.preprocessing import image_fields


class Exported:
    """An exported classifier, for `predict` and `embed`.

    Args:
        path: An ``.onnx`` file or an OpenVINO ``.xml``, written by `export` or `quantize`.
        threads: How many threads to compute with. The default is torch's number where torch is imported, else
            ``OMP_NUM_THREADS``, else the number of processors.
        resize: What resizes images, unless the file does: see `read_image`. ``pillow`` needs no torch.

    Attributes:
        metadata: What the file says of itself.
        preprocessing: How its images are prepared.
        num_classes: Number of classes; 0 if it gives features.
        head_hidden_size: Number of outputs of an image.
        pretrained_cfg: Preprocessing and class names, as a model has them.
        dtype: What it computes in.
        threads: How many threads it computes with.
        fingerprint: SHA-256, in hex, of the file, followed by those of the files that belong to it.

    Raises:
        WeightsError: If the file is damaged, has no metadata or metadata that are not true of its graph, or does not
            say how its images are prepared.
        InputError: If there is no such file, or it is of another kind, or no regular file.
        MissingExtraError: If its runtime is not installed.
    """

    def __init__(self, path: Path, *, threads: int | None = None, resize: Resizer = "torch") -> None:
        if path.suffix not in READABLE:
            raise InputError(f"{path}: expected {' or '.join(READABLE)}, as export writes them")
        target = READABLE[path.suffix]
        files = [path.with_suffix(suffix) for suffix in (target.suffix, *target.companions)]
        for file in files:
            open_regular(file).close()  # a runtime would wait for a FIFO's writer for ever
        target.check_installed()
        declaration = target.declaration(path)
        self.path, self.metadata = path, Metadata.from_json(declaration.metadata, str(path))
        if self.metadata.images is None:
            raise WeightsError(
                f"{path}: how its images are to be prepared is not in the file: export it with that known"
            )
        _check_declaration(path, self.metadata, declaration)
        self.preprocessing = self.metadata.images
        self.fingerprint = "".join(sha256(file) for file in files)
        self.num_classes = 0 if self.metadata.output == "features" else self.metadata.outputs
        self.head_hidden_size = self.metadata.outputs
        self.pretrained_cfg: dict[str, Any] = {
            **image_fields(self.preprocessing),
            "num_classes": self.num_classes,
            "label_names": list(self.metadata.labels) or None,
        }
        self.dtype = self.metadata.interface.dtype
        self.threads = threads or _default_threads()
        self._session = target.open_session(path, self.threads)
        self._process, self._resize = os.getpid(), resize

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Exported, resize=self._resize), (self.path,)

    def __repr__(self) -> str:
        return f"Exported({self.path})"

    def read(self, path: Path, *, orientation: bool = True) -> Pixels:
        """Return an image file as the uint8 pixels (height, width, 3) that the file is to be called with.

        Args:
            path: An image file.
            orientation: Whether the image is turned as its EXIF orientation says.

        Raises:
            InputError: If it is missing, unreadable, too large, or not an image.
        """
        return read_pixels(
            path, self.metadata.interface, self.preprocessing, orientation=orientation, resize=self._resize
        )

    def __call__(self, pixels: Sequence[Pixels]) -> NDArray[numpy.float32]:
        """Return float32 (n, outputs) of what `read` gives; the logarithm of probabilities, which serves as logits.

        Raises:
            EngineError: If the runtime fails, or this process was forked from the one that opened the file.
        """
        if self._process != os.getpid():
            raise EngineError(
                f"{self.path} was opened in process {self._process}, and this one was forked from it, without its "
                "threads: open it here, or start processes by 'spawn'"
            )
        interface = self.metadata.interface
        # Images of several sizes cannot be given together.
        groups = [[image] for image in pixels] if interface.resize else [list(pixels)]
        try:
            outputs = [self._session(graph_input(group, interface, self.preprocessing)) for group in groups]
        except Exception as error:  # of the runtime's own kinds, which nobody can list
            raise EngineError(f"{self.path}: {first_line(error)}") from error
        found = numpy.concatenate(outputs)
        # A probability that is rounded to 0 would have no finite logarithm.
        return numpy.log(numpy.maximum(found, numpy.finfo(numpy.float32).tiny)) if interface.softmax else found


def _default_threads() -> int:
    if torch := sys.modules.get("torch"):
        threads: int = torch.get_num_threads()
        return threads
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else os.cpu_count() or 1


def _check_declaration(path: Path, metadata: Metadata, declaration: Declaration) -> None:
    """Check that a graph takes and gives what its metadata say, before anything is made of a size in the metadata.

    Raises:
        WeightsError: If it does not.
    """
    interface = metadata.interface
    sides: Shape = interface.size if interface.size and not interface.any_size else (None, None)
    images: Shape = (*sides, 3) if interface.pixels == "nhwc" else (3, *sides)
    for what, said, found in (
        ("images", images, declaration.images[1:]),
        ("outputs", (metadata.outputs,), declaration.outputs[1:]),
    ):
        if said != found:
            raise WeightsError(
                f"{path}: its metadata say {what} of shape {_shown(said)}, its graph {_shown(found)}: export it again"
            )


def _shown(shape: Shape) -> str:
    return "x".join("any" if side is None else str(side) for side in shape)
