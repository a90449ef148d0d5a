"""An exported file as a function of image files. ONNX files and OpenVINO IRs run without torch."""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from effnet_zoo.atomic_io import open_regular, sha256
from effnet_zoo.errors import EngineError, InputError, WeightsError
from effnet_zoo.images.reader import Resizer, read_image, read_whole
from effnet_zoo.images.transform import Pixels, normalised
from effnet_zoo.runtime.metadata import Interface, Metadata
from effnet_zoo.runtime.targets.onnx import READABLE, Shape
from effnet_zoo.runtime.targets.target import runtime_errors
from effnet_zoo.zoo.preprocessing import Preprocessing, image_fields


class Exported:
    """An exported classifier, for `predict` and `embed`: a `Runnable` of an ``.onnx`` file or an OpenVINO ``.xml``.

    Args:
        path: A file that `export` or `quantize` wrote.
        threads: How many threads to compute with. The default is torch's number where torch is imported, else
            ``OMP_NUM_THREADS``, else the number of processors.
        resize: What resizes images, unless the file does: see `read_image`. ``pillow`` needs no torch.

    Raises:
        WeightsError: If the file is damaged, or its metadata are missing, incomplete, or not true of its graph.
    """

    def __init__(self, path: Path, *, threads: int | None = None, resize: Resizer = "torch") -> None:
        if path.suffix not in READABLE:
            raise InputError(f"{path}: expected {' or '.join(READABLE)}, as export writes them")
        target = READABLE[path.suffix]
        files = [path.with_suffix(suffix) for suffix in (target.suffix, *target.companions)]
        for file in files:
            open_regular(file).close()  # a runtime would wait for the writer of a FIFO for ever
        target.check_installed()
        text, images, outputs = target.declaration(path)
        self.path, self.metadata = path, Metadata.from_json(text, str(path))
        if self.metadata.images is None:
            raise WeightsError(f"{path}: it does not say how its images are prepared: export it with a pretrained_cfg")
        _check_declaration(path, self.metadata, images, outputs)
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
        """Return an image file as the uint8 pixels (height, width, 3) that the file is to be called with."""
        return read_pixels(path, self.metadata.interface, self.preprocessing, orientation, self._resize)

    def __call__(self, pixels: Sequence[Pixels]) -> NDArray[numpy.float32]:
        """Return float32 (n, outputs) of what `read` gives; the logarithm of probabilities, which serves as logits.

        Raise EngineError if the runtime fails, or this process was forked from the one that opened the file.
        """
        if self._process != os.getpid():
            raise EngineError(
                f"{self.path} was opened in process {self._process}, and this one was forked from it, without its "
                "threads: open it here, or start processes by 'spawn'"
            )
        interface = self.metadata.interface
        if not pixels:
            raise InputError(f"{self.path}: no images: expected at least one")
        # A graph takes images of one size at a time.
        groups = [[image] for image in pixels] if interface.resize else [list(pixels)]
        with runtime_errors(
            f"{self.path}: its runtime failed", "expected images as `read` gives them, or export it again"
        ):
            outputs = [self._session(graph_input(group, interface, self.preprocessing)) for group in groups]
        found = numpy.concatenate(outputs)
        # A probability that is rounded to 0 would have no finite logarithm.
        return numpy.log(numpy.maximum(found, numpy.finfo(numpy.float32).tiny)) if interface.softmax else found


def read_pixels(
    path: Path, interface: Interface, how: Preprocessing, orientation: bool = True, resize: Resizer = "torch"
) -> Pixels:
    """Return an image file as pixels, resized and cropped unless the graph does that."""
    if interface.resize:
        return read_whole(path, how, orientation=orientation)
    return read_image(path, how, orientation=orientation, resize=resize)


def graph_input(pixels: Sequence[Pixels], interface: Interface, how: Preprocessing) -> NDArray[Any]:
    """Return images of one size as the batch that a graph takes: uint8, or float32 (n, channels, height, width)."""
    if interface.pixels is None:
        return normalised(pixels, how)
    batch = numpy.stack(pixels)
    return batch if interface.pixels == "nhwc" else numpy.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def _default_threads() -> int:
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else os.cpu_count() or 1


def _check_declaration(path: Path, metadata: Metadata, images: Shape, outputs: Shape) -> None:
    """Raise WeightsError unless a graph takes and gives what its metadata say. Before this, no size of them is used."""
    interface = metadata.interface
    sides: Shape = interface.size if interface.size and not interface.any_size else (None, None)
    taken: Shape = (*sides, 3) if interface.pixels == "nhwc" else (3, *sides)
    for what, expected, found in (("images", taken, images[1:]), ("outputs", (metadata.outputs,), outputs[1:])):
        if expected != found:
            raise WeightsError(
                f"{path}: its metadata say {what} of shape {_shown(expected)}, its graph {_shown(found)}: export it "
                "again"
            )


def _shown(shape: Shape) -> str:
    return "x".join("any" if side is None else str(side) for side in shape)
