"""The network as an ONNX graph of a dozen operators: batch norm folded, padding inside each Conv, one node a layer.

Each block is a row of named layers (`Block`); here is only what each kind of layer is in ONNX. Nothing is traced:
torch.fx, and PyTorch's exporter with it, replaces methods of `nn.Module` while it works, which breaks models that other
threads run meanwhile. The exporter also takes eight seconds for a B0, and it has no way to say SAME padding, so that a
graph for any size computes it from shapes at every layer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import effnet_zoo
from effnet_zoo.errors import ArgumentError, EngineError
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.layers import Block, GlobalPool, PooledConv2d, SameConv2d, SqueezeExcite, Stage
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.interface import Interface, Resizing, scale_and_shift
from effnet_zoo.zoo.preprocessing import Preprocessing

OPSET = 18
"""The first that resizes with antialiasing; ONNX Runtime reads it since 1.14, OpenVINO since 2023."""

INPUT = "images"

LIMIT = (1 << 31) - (1 << 20)
"""Bytes of an ONNX file at most: it is a protobuf, which counts bytes in 31 bits."""

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def onnx_model(
    model: EfficientNet, interface: Interface, preprocessing: Preprocessing | None = None
) -> onnx.ModelProto:
    """Return a model's graph, from ``images`` to ``logits``, ``probabilities`` or ``features``, with any batch.

    Nodes are called after the modules they stand for. In float16, weights and maps are float16, but means over height
    and width are computed in float32.

    Args:
        model: A classifier, on any device; it stays as it is.
        interface: What goes in and comes out.
        preprocessing: The checkpoint's preprocessing, for uint8 images, with the interface's size.

    Raises:
        ArgumentError: If ONNX has no such dtype, the file would be too large, or pixels cannot be normalised.
        EngineError: If a module, such as a block of your own, computes what has no translation here.
    """
    if interface.dtype not in TYPES:
        raise ArgumentError(f"onnx has no {interface.dtype} that runtimes compute in: expected {' or '.join(TYPES)}")
    folded = optimize(model).cpu().float()
    size = sum(weight.numel() for weight in folded.parameters()) * (4 if interface.dtype == "float32" else 2)
    if size > LIMIT:
        raise ArgumentError(
            f"onnx: {size / 1e9:.2f} GB of weights: expected at most {LIMIT / 1e9:.2f}, which is what an ONNX file "
            "holds: export in float16, or to another format"
        )
    return _Writer(folded, interface, preprocessing).model()


class _Writer:
    """Writes one network, node by node. A value has the name of the node that computes it.

    Attributes:
        half: Whether the network computes in float16.
        size: Height and width of the map that is written now; None if it is not known.
    """

    def __init__(self, network: EfficientNet, interface: Interface, preprocessing: Preprocessing | None) -> None:
        self.network, self.interface, self.preprocessing = network, interface, preprocessing
        self.half = interface.dtype == "float16"
        self.size = interface.size
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        output = self.interface.output_of(self.network.num_classes)
        x = self._prepared(INPUT)
        if self.half:
            x = self.cast(x, "input.half", TensorProto.FLOAT16)
        x = self._network(x)
        if self.half:
            x = self.cast(x, "output.float", TensorProto.FLOAT)
        if self.interface.softmax:
            x = self.node("Softmax", [x], "softmax", axis=1)
        self.nodes[-1].output[0] = output
        graph = helper.make_graph(self.nodes, "EfficientNet", [self._input()], [self._output(output)], self.tensors)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph,
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
            producer_name="effnet-zoo",
            producer_version=effnet_zoo.__version__,
        )

    # what goes in, and comes out

    def _input(self) -> onnx.ValueInfoProto:
        pixels = self.interface.pixels is not None
        size: Any = ("height", "width") if self.interface.any_size else self.interface.size
        shape = self.interface.image_shape(self.network.in_chans, size)
        return helper.make_tensor_value_info(
            INPUT, TensorProto.UINT8 if pixels else TensorProto.FLOAT, ["batch", *shape]
        )

    def _output(self, name: str) -> onnx.ValueInfoProto:
        network = self.network
        if network.num_classes or network.global_pool.pool_type:
            shape: list[str | int] = ["batch", network.num_classes or network.head_hidden_size]
        else:
            shape = ["batch", network.head_hidden_size, *(self.size or ("rows", "columns"))]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _prepared(self, x: str) -> str:
        interface = self.interface
        if interface.pixels is None:
            return x
        if interface.pixels == "nhwc":
            x = self.node("Transpose", [x], "pixels.nchw", perm=[0, 3, 1, 2])
        x = self.cast(x, "pixels.float", TensorProto.FLOAT)
        if interface.resize:
            x = self._resized(x)
        scale, shift = (
            numpy.array(values, numpy.float32)[:, None, None]
            for values in scale_and_shift(self.preprocessing, self.network.in_chans)
        )
        x = self.node("Mul", [x, self.constant(scale, "pixels.scale.values")], "pixels.scale")
        return self.node("Add", [x, self.constant(shift, "pixels.shift.values")], "pixels.shift")

    def _resized(self, x: str) -> str:
        assert self.preprocessing is not None
        resizing = Resizing.of(self.preprocessing)

        def whole(values: Sequence[int], name: str) -> str:
            return self.constant(numpy.array(values, numpy.int64), f"resize.{name}")

        size = whole(resizing.cover, "cover")
        if resizing.keeps_aspect:
            sides = self.node("Shape", [x], "resize.sides", start=2, end=4)
            short = self.node("ReduceMin", [sides], "resize.short", keepdims=1)
            size = self.node("Div", [self.node("Mul", [size, sides], "resize.scaled"), short], "resize.size")
        # Across, then down, as Pillow does it: what bicubic overshoots is cut off after each.
        for axis, side in ((3, "width"), (2, "height")):
            wanted = self.node(
                "Slice", [size, whole([axis - 2], f"{side}.at"), whole([axis - 1], f"{side}.end")], f"resize.{side}"
            )
            x = self.node(
                "Resize",
                [x, "", "", wanted],
                f"resize.to.{side}",
                mode="cubic" if resizing.mode == "bicubic" else "linear",
                cubic_coeff_a=-0.5,  # Pillow's, for which ONNX has -0.75
                antialias=1,
                axes=[axis],
            )
            x = self.clip(x, f"resize.{side}.clip", 0.0, 255.0)
        # The middle is kept: half of the rest is cut off before it, rounded to even as torchvision's crop rounds.
        spare = self.node("Sub", [size, whole(resizing.size, "kept")], "resize.spare")
        half = self.node(
            "Mul", [self.cast(spare, "resize.spare.float", TensorProto.FLOAT), self.number(0.5)], "resize.half"
        )
        start = self.cast(self.node("Round", [half], "resize.rounded"), "resize.start", TensorProto.INT64)
        end = self.node("Add", [start, "resize.kept"], "resize.end")
        return self.node("Slice", [x, start, end, whole([2, 3], "axes")], "resize.crop")

    # the network

    def _network(self, x: str) -> str:
        network = self.network
        for name in ("forward", "forward_features", "forward_head", "forward_stem", "_head"):
            if getattr(type(network), name) is not getattr(EfficientNet, name):
                raise EngineError(f"onnx: {type(network).__name__}.{name} has no translation here")
        self._check_plain(network, "the model")
        for name in ("conv_stem", "bn1", "act1"):
            x = self.layer(name, x)
        for stage in self._members("blocks", nn.Sequential):
            for block in self._members(stage, Stage):
                x = self._block(block, x)
        for name in ("conv_head", "bn2", "act2", "global_pool", "head_drop", "classifier"):
            x = self.layer(name, x)
        return x

    def _members(self, name: str, kind: type[nn.Module]) -> Iterator[str]:
        """Yield the names of the modules that a container runs one after the other."""
        module = self._module(name)
        if type(module).forward is not kind.forward:
            raise self._unknown(name, module)
        return (f"{name}.{child}" for child, _ in module.named_children())

    def _block(self, name: str, x: str) -> str:
        block = self._module(name)
        if (
            not isinstance(block, Block)
            or type(block).forward is not Block.forward
            or type(block).add_skip is not Block.add_skip
        ):
            raise self._unknown(name, block)
        shortcut = x
        for child, _ in block.named_children():
            x = self.layer(f"{name}.{child}", x)
        return self.node("Add", [x, shortcut], f"{name}.add") if block.skip else x

    def layer(self, name: str, x: str) -> str:
        """Write the nodes of a layer, and return the name of their output."""
        module = self._module(name)
        for kind, write in _LAYERS.items():
            if isinstance(module, kind) and type(module).forward is kind.forward:
                return write(self, cast(Any, module), name, x)
        raise self._unknown(name, module)

    def _module(self, name: str) -> nn.Module:
        module = self.network.get_submodule(name)
        self._check_plain(module, name)
        return module

    def _check_plain(self, module: nn.Module, name: str) -> None:
        """Check that a module computes what its class says."""
        if "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks:
            raise EngineError(f"onnx: {name} has a hook, or a forward of its own, which has no translation here")

    def _unknown(self, name: str, module: nn.Module) -> EngineError:
        return EngineError(f"onnx: {name} is {type(module).__name__}, which has no translation here")

    def _conv(self, conv: nn.Conv2d, name: str, x: str) -> str:
        stride, dilation = cast("tuple[int, int]", conv.stride), cast("tuple[int, int]", conv.dilation)
        kernel, padding = cast("tuple[int, int]", conv.kernel_size), cast("tuple[int, int]", conv.padding)
        attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "dilations": dilation}
        before = list(padding)
        if isinstance(conv, SameConv2d) and self.size is not None:
            before = [pad - (1 - side % 2) for pad, side in zip(padding, self.size, strict=True)]
        if self.size is not None:
            sides = zip(self.size, before, padding, dilation, kernel, stride, strict=True)
            height, width = ((side + b + a - d * (k - 1) - 1) // s + 1 for side, b, a, d, k, s in sides)
            self.size = (height, width)
        if isinstance(conv, SameConv2d) and self.size is None:
            attributes["auto_pad"] = "SAME_UPPER"
        else:
            attributes["pads"] = [*before, *padding]
        return self._weighted("Conv", conv, name, x, group=conv.groups, **attributes)

    def _pooled_conv(self, conv: PooledConv2d, name: str, x: str) -> str:
        return self._weighted("Conv", conv, name, x, kernel_shape=[1, 1])

    def _linear(self, linear: nn.Linear, name: str, x: str) -> str:
        return self._weighted("Gemm", linear, name, x, transB=1)

    def _weighted(self, op: str, layer: nn.Conv2d | nn.Linear, name: str, x: str, **attributes: Any) -> str:
        weights = {"weight": layer.weight, "bias": layer.bias}
        inputs = [self.weight(value, f"{name}.{key}") for key, value in weights.items() if value is not None]
        return self.node(op, [x, *inputs], name, **attributes)

    def _squeeze_excite(self, se: SqueezeExcite, name: str, x: str) -> str:  # noqa: ARG002
        gate = self.pooled(x, f"{name}.pool")
        for child in ("conv_reduce", "act1", "conv_expand", "gate"):
            gate = self.layer(f"{name}.{child}", gate)
        return self.node("Mul", [x, gate], f"{name}.scale")

    def pooled(self, x: str, name: str) -> str:
        """Write means over height and width, which float16 could not sum."""
        if not self.half:
            return self.node("GlobalAveragePool", [x], name)
        pooled = self.node("GlobalAveragePool", [self.cast(x, f"{name}.float", TensorProto.FLOAT)], name)
        return self.cast(pooled, f"{name}.half", TensorProto.FLOAT16)

    def _global_pool(self, pool: GlobalPool, name: str, x: str) -> str:
        if not pool.pool_type:
            return self.node("Identity", [x], name)
        parts = []
        if pool.pool_type != "max":
            parts.append(self.pooled(x, f"{name}.avg"))
        if pool.pool_type != "avg":
            parts.append(self.node("GlobalMaxPool", [x], f"{name}.max"))
        if pool.pool_type == "catavgmax":
            parts = [self.node("Concat", parts, f"{name}.cat", axis=1)]
        elif pool.pool_type == "avgmax":
            both = self.node("Add", parts, f"{name}.sum")
            parts = [self.node("Mul", [both, self.number(0.5, half=self.half)], f"{name}.mean")]
        return self.node("Flatten", parts, name, axis=1)

    def _silu(self, silu: nn.SiLU, name: str, x: str) -> str:  # noqa: ARG002
        return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}.sigmoid")], name)

    def _sigmoid(self, sigmoid: nn.Sigmoid, name: str, x: str) -> str:  # noqa: ARG002
        return self.node("Sigmoid", [x], name)

    def _relu(self, relu: nn.ReLU, name: str, x: str) -> str:  # noqa: ARG002
        return self.node("Relu", [x], name)

    def _relu6(self, relu6: nn.ReLU6, name: str, x: str) -> str:  # noqa: ARG002
        return self.clip(x, name, 0.0, 6.0, half=self.half)

    def _nothing(self, identity: nn.Identity, name: str, x: str) -> str:  # noqa: ARG002
        return x

    # the pieces

    def node(self, op: str, inputs: Iterable[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def cast(self, x: str, name: str, to: int) -> str:
        return self.node("Cast", [x], name, to=to)

    def clip(self, x: str, name: str, low: float, high: float, *, half: bool = False) -> str:
        return self.node("Clip", [x, self.number(low, half=half), self.number(high, half=half)], name)

    def number(self, value: float, *, half: bool = False) -> str:
        """Write a scalar, once for all nodes that use it."""
        name = f"number.{value:g}{'.half' if half else ''}"
        if all(tensor.name != name for tensor in self.tensors):
            self.constant(numpy.array(value, numpy.float16 if half else numpy.float32), name)
        return name

    def constant(self, values: Any, name: str) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, tensor: Tensor, name: str) -> str:
        values = tensor.detach().to(torch.float16 if self.half else torch.float32)
        return self.constant(values.contiguous().numpy(), name)


_LAYERS: dict[type[nn.Module], Callable[[_Writer, Any, str, str], str]] = {
    SqueezeExcite: _Writer._squeeze_excite,
    SameConv2d: _Writer._conv,
    PooledConv2d: _Writer._pooled_conv,
    nn.Conv2d: _Writer._conv,
    nn.Linear: _Writer._linear,
    nn.SiLU: _Writer._silu,
    nn.Sigmoid: _Writer._sigmoid,
    nn.ReLU6: _Writer._relu6,
    nn.ReLU: _Writer._relu,
    nn.Identity: _Writer._nothing,
    GlobalPool: _Writer._global_pool,
}
"""What writes each kind of layer. A subclass is written as its kind only if it has the same forward."""
