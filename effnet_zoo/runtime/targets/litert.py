"""LiteRT, formerly TensorFlow Lite, for phones and other small devices. A file takes one image at a time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_zoo.errors import ArgumentError
from effnet_zoo.runtime.metadata import KEY, Interface, Metadata
from effnet_zoo.runtime.targets.pytorch import Program
from effnet_zoo.runtime.targets.target import TensorFunction, on_tensors

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from effnet_zoo.runtime.deployed import Deployed


class LiteRt(Program):
    """A LiteRT file, which litert-torch converts."""

    format = "litert"
    help = "a LiteRT .tflite for one image at a time, by litert-torch"
    suffix = ".tflite"
    packages = ("litert_torch", "ai_edge_litert")
    extra = "litert"
    devices = ("cpu",)
    file_dtypes = ("float32",)

    def check_file(self, interface: Interface) -> None:
        super().check_file(interface)
        if interface.any_size:
            raise ArgumentError("litert converts for one size: expected images of that size, resized before")

    def write(self, deployed: "Deployed", images: "Tensor", interface: Interface, path: Path) -> None:
        import litert_torch

        path.write_bytes(litert_torch.convert(deployed, (images[:1],)).model_content())

    def save(self, built: Path, path: Path, metadata: Metadata | None = None) -> None:
        import numpy
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        content = flatbuffer_utils.read_model_from_bytearray(bytearray(built.read_bytes()))
        if metadata:
            text, entry = schema.BufferT(), schema.MetadataT()
            text.data = numpy.frombuffer(metadata.to_json().encode(), numpy.uint8)
            content.buffers.append(text)
            entry.name, entry.buffer = KEY, len(content.buffers) - 1
            content.metadata = [*(content.metadata or ()), entry]
        flatbuffer_utils.write_model(content, str(path))

    def open_program(self, path: Path, device: "torch.device", threads: int) -> TensorFunction:
        import numpy
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        ((given,), (wanted,)) = interpreter.get_input_details(), interpreter.get_output_details()

        def outputs_of(images: "NDArray[Any]") -> "NDArray[numpy.float32]":
            outputs = []
            for image in images:
                interpreter.set_tensor(given["index"], image[None])
                interpreter.invoke()
                outputs.append(interpreter.get_tensor(wanted["index"]))
            return numpy.concatenate(outputs)

        return on_tensors(outputs_of)
