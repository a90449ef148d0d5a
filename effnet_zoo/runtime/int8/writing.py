"""Write the int8 file by ONNX Runtime's quantizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import onnx
from onnxruntime import quantization
from torch import Tensor

from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.graph import INPUT, onnx_model
from effnet_zoo.runtime.metadata import Metadata


class _OneImage(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives the quantizer the one image that it must run. It gets the ranges otherwise."""

    def __init__(self, image: Tensor) -> None:
        self.left = iter([{INPUT: image[None].contiguous().numpy()}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def write_int8(
    model: EfficientNet, ranges: Mapping[str, tuple[float, float]], metadata: Metadata, image: Tensor, path: Path
) -> None:
    """Write a model's graph, with the weights and inputs of some layers in int8, into a folder of its own.

    The weights of these layers lie on int8 grids of their largest. `ranges` has the lowest and highest input of each of
    them, by name. The image is one as the file takes it, without batch.
    """
    graph = onnx_model(model, metadata.interface, metadata.images)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in graph.graph.node:
        if node.name in ranges:
            low, high = ranges[node.name]
            for known in overrides.get(node.input[0], []):  # what two layers read is rounded once, for both
                low, high = min(low, float(known["rmin"])), max(high, float(known["rmax"]))
            overrides[node.input[0]] = [{"rmin": numpy.float32(low), "rmax": numpy.float32(high)}]
    source = path.with_name("source.onnx")
    # Else it warns, by the root logger, that it misses a pre-processing, which a folded graph does not need.
    onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(graph, source)
    quantization.quantize_static(
        str(source),
        str(path),
        _OneImage(image),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm"],
        nodes_to_quantize=list(ranges),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={
            # What comes out stays float, so that activations and sums are computed in it.
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"],
            "QuantizeBias": False,  # in int32 they would take three times the room, with scales of their own
            "TensorQuantOverrides": overrides,
        },
    )
