"""Write a network as an ONNX graph of a dozen operators: batch norm folded, padding inside each Conv.

A table says what each kind of layer is in ONNX. Nothing is traced: torch.fx, which PyTorch's exporter uses, replaces
methods of `nn.Module` while it works. This breaks models that other threads run at the same time. The exporter also
takes eight seconds for a B0, and it does not know SAME padding: its graphs for any size compute the padding of every
layer from shapes.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import effnet_zoo
from effnet_zoo.errors import ArgumentError, EngineError
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.layers import Block, GlobalPool, PooledConv2d, SameConv2d, SqueezeExcite, Stage
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.deployed import covered_size, scale_and_shift
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.zoo.preprocessing import Preprocessing

OPSET = 18
"""The first that resizes with antialiasing; ONNX Runtime reads it since 1.14, OpenVINO since 2023."""

INPUT = "images"

LIMIT = (1 << 31) - (1 << 20)
"""Bytes of an ONNX file at most: it is a protobuf, which counts bytes in 31 bits."""

STEM, HEAD = ("conv_stem", "bn1", "act1"), ("conv_head", "bn2", "act2", "global_pool", "head_drop", "classifier")


def onnx_model(model: EfficientNet, interface: Interface, how: Preprocessing | None = None) -> onnx.ModelProto:
    """Return a model's graph, from ``images`` to ``logits``, ``probabilities`` or ``features``, with any batch.

    Nodes are called after the modules they stand for. In float16, weights and maps are float16, but means over height
    and width are computed in float32. `how` has the interface's size; only uint8 images need it.

    Raises:
        ArgumentError: If the file would be too large, or pixels cannot be normalised.
        EngineError: If a module, such as a block of your own, computes what has no translation here.
    """
    folded = optimize(model).cpu().float()
    size = sum(weight.numel() for weight in folded.parameters()) * (4 if interface.dtype == "float32" else 2)
    if size > LIMIT:
        raise ArgumentError(
            f"onnx: {size / 1e9:.2f} GB of weights: expected at most {LIMIT / 1e9:.2f}, which is what an ONNX file "
            "holds: export in float16, or to another format"
        )
    return _Writer(folded, interface, how).model()


class _Writer:
    """Writes one network, node by node. A value has the name of the node that computes it.

    Attributes:
        half: Whether what is written now is computed in float16.
        size: Height and width of the map that is written now; None if it is not known.
    """

    def __init__(self, network: EfficientNet, interface: Interface, how: Preprocessing | None) -> None:
        self.network, self.interface, self.how = network, interface, how
        self.half = False
        self.size = interface.size
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        network, interface = self.network, self.interface
        output = interface.output_of(network.num_classes)
        x = self.prepared(INPUT)
        self.half = interface.dtype == "float16"
        if self.half:
            x = self.cast(x, "input.half", TensorProto.FLOAT16)
        x = self.network_nodes(x)
        if self.half:
            x = self.cast(x, "output.float", TensorProto.FLOAT)
        if interface.softmax:
            self.node("Softmax", [x], "softmax", axis=1)
        self.nodes[-1].output[0] = output
        sides: Any = ("height", "width") if interface.any_size else interface.size
        images = ["batch", *interface.image_shape(network.in_chans, sides)]
        kind = TensorProto.UINT8 if interface.pixels else TensorProto.FLOAT
        outputs: list[str | int] = ["batch", network.num_classes or network.head_hidden_size]
        if not network.num_classes and not network.global_pool.pool_type:
            outputs += self.size or ("rows", "columns")
        graph = helper.make_graph(
            self.nodes,
            "EfficientNet",
            [helper.make_tensor_value_info(INPUT, kind, images)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, outputs)],
            list(self.tensors.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph,
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
            producer_name="effnet-zoo",
            producer_version=effnet_zoo.__version__,
        )

    # what goes in

    def prepared(self, x: str) -> str:
        if self.interface.pixels is None:
            return x
        if self.interface.pixels == "nhwc":
            x = self.node("Transpose", [x], "pixels.nchw", perm=[0, 3, 1, 2])
        x = self.cast(x, "pixels.float", TensorProto.FLOAT)
        scale, shift = scale_and_shift(self.how, self.network.in_chans)
        if self.interface.resize:
            x = self.resized(x)
        for op, name, values in (("Mul", "pixels.scale", scale), ("Add", "pixels.shift", shift)):
            constant = self.constant(numpy.array(values, numpy.float32)[:, None, None], f"{name}.values")
            x = self.node(op, [x, constant], name)
        return x

    def resized(self, x: str) -> str:
        how = self.how
        assert how is not None

        def whole(values: Iterable[int], name: str) -> str:
            return self.constant(numpy.array(values, numpy.int64), f"resize.{name}")

        size = whole(covered_size(how), "cover")
        if how.crop_mode != "squash":
            sides = self.node("Shape", [x], "resize.sides", start=2, end=4)
            short = self.node("ReduceMin", [sides], "resize.short", keepdims=1)
            size = self.node("Div", [self.node("Mul", [size, sides], "resize.scaled"), short], "resize.size")
        # Across, then down, as Pillow does it: what bicubic overshoots is cut off after each.
        for axis, side in ((3, "width"), (2, "height")):
            bounds = [whole([axis - 2], f"{side}.at"), whole([axis - 1], f"{side}.end")]
            wanted = self.node("Slice", [size, *bounds], f"resize.{side}")
            x = self.node(
                "Resize",
                [x, "", "", wanted],
                f"resize.to.{side}",
                mode="cubic" if how.interpolation == "bicubic" else "linear",
                cubic_coeff_a=-0.5,  # Pillow's, for which ONNX has -0.75
                antialias=1,
                axes=[axis],
            )
            x = self.clip(x, f"resize.{side}.clip", 0.0, 255.0)
        # The middle is kept: half of the rest is cut off before it, rounded to even as torchvision's crop rounds.
        spare = self.node("Sub", [size, whole(how.size, "kept")], "resize.spare")
        spare = self.cast(spare, "resize.spare.float", TensorProto.FLOAT)
        half = self.node("Mul", [spare, self.number(0.5)], "resize.half")
        start = self.cast(self.node("Round", [half], "resize.rounded"), "resize.start", TensorProto.INT64)
        end = self.node("Add", [start, "resize.kept"], "resize.end")
        return self.node("Slice", [x, start, end, whole([2, 3], "axes")], "resize.crop")

    # the network

    def network_nodes(self, x: str) -> str:
        for name in ("forward", "forward_features", "forward_head", "forward_stem", "_head"):
            if getattr(type(self.network), name) is not getattr(EfficientNet, name):
                raise EngineError(f"onnx: {type(self.network).__name__}.{name} has no translation here")
        _check_plain(self.network, "the model")
        for name in (*STEM, "blocks", *HEAD):
            x = self.layer(self.network.get_submodule(name), name, x)
        return x

    def layer(self, module: nn.Module, name: str, x: str) -> str:
        """Write the nodes of a layer, and return the name of their output."""
        _check_plain(module, name)
        write = _LAYERS.get(type(module).forward)
        if write is None or (isinstance(module, Block) and type(module).add_skip is not Block.add_skip):
            raise EngineError(f"onnx: {name} is {type(module).__name__}, which has no translation here")
        return write(self, module, name, x)

    def sequence(self, layers: nn.Module, name: str, x: str) -> str:
        for child, module in layers.named_children():
            x = self.layer(module, f"{name}.{child}", x)
        return x

    def block(self, block: Block, name: str, x: str) -> str:
        out = self.sequence(block, name, x)
        return self.node("Add", [out, x], f"{name}.add") if block.skip else out

    def conv(self, conv: nn.Conv2d, name: str, x: str) -> str:
        stride, dilation = cast("tuple[int, int]", conv.stride), cast("tuple[int, int]", conv.dilation)
        kernel, padding = cast("tuple[int, int]", conv.kernel_size), cast("tuple[int, int]", conv.padding)
        before, same = list(padding), isinstance(conv, SameConv2d)
        pads: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
        if self.size is not None and same:
            before = [pad - (1 - side % 2) for pad, side in zip(padding, self.size, strict=True)]
        if self.size is not None or not same:
            pads = {"pads": [*before, *padding]}
        if self.size is not None:
            sides = zip(self.size, before, padding, dilation, kernel, stride, strict=True)
            height, width = ((side + b + a - d * (k - 1) - 1) // s + 1 for side, b, a, d, k, s in sides)
            self.size = (height, width)
        shape = {"kernel_shape": kernel, "strides": stride, "dilations": dilation}
        return self.weighted("Conv", conv, name, x, group=conv.groups, **shape, **pads)

    def weighted(self, op: str, layer: nn.Conv2d | nn.Linear, name: str, x: str, **attributes: Any) -> str:
        inputs = [x]
        for key, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            if tensor is not None:
                values = tensor.detach().to(torch.float16 if self.half else torch.float32)
                inputs.append(self.constant(values.contiguous().numpy(), f"{name}.{key}"))
        return self.node(op, inputs, name, **attributes)

    def squeeze_excite(self, se: SqueezeExcite, name: str, x: str) -> str:
        gate = self.pooled(x, f"{name}.pool")
        for child in ("conv_reduce", "act1", "conv_expand", "gate"):
            gate = self.layer(se.get_submodule(child), f"{name}.{child}", gate)
        return self.node("Mul", [x, gate], f"{name}.scale")

    def pooled(self, x: str, name: str) -> str:
        """Write means over height and width, which float16 could not sum."""
        if not self.half:
            return self.node("GlobalAveragePool", [x], name)
        pooled = self.node("GlobalAveragePool", [self.cast(x, f"{name}.float", TensorProto.FLOAT)], name)
        return self.cast(pooled, f"{name}.half", TensorProto.FLOAT16)

    def global_pool(self, pool: GlobalPool, name: str, x: str) -> str:
        if not pool.pool_type:
            return self.node("Identity", [x], name)
        parts = [self.pooled(x, f"{name}.avg")] if pool.pool_type != "max" else []
        if pool.pool_type != "avg":
            parts.append(self.node("GlobalMaxPool", [x], f"{name}.max"))
        if pool.pool_type == "catavgmax":
            parts = [self.node("Concat", parts, f"{name}.cat", axis=1)]
        elif pool.pool_type == "avgmax":
            both = self.node("Add", parts, f"{name}.sum")
            parts = [self.node("Mul", [both, self.number(0.5)], f"{name}.mean")]
        return self.node("Flatten", parts, name, axis=1)

    # the pieces

    def node(self, op: str, inputs: Iterable[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def cast(self, x: str, name: str, to: int) -> str:
        return self.node("Cast", [x], name, to=to)

    def clip(self, x: str, name: str, low: float, high: float) -> str:
        return self.node("Clip", [x, self.number(low), self.number(high)], name)

    def number(self, value: float) -> str:
        """Write a scalar, once for all nodes that use it."""
        name = f"number.{value:g}{'.half' if self.half else ''}"
        return self.constant(numpy.array(value, numpy.float16 if self.half else numpy.float32), name)

    def constant(self, values: Any, name: str) -> str:
        self.tensors[name] = numpy_helper.from_array(values, name)
        return name


def _check_plain(module: nn.Module, name: str) -> None:
    """Raise EngineError unless a module computes what its class says."""
    if "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks:
        raise EngineError(f"onnx: {name} has a hook, or a forward of its own, which has no translation here")


_LAYERS: dict[Callable[..., Any], Callable[[_Writer, Any, str, str], str]] = {
    nn.Sequential.forward: _Writer.sequence,
    Stage.forward: _Writer.sequence,
    Block.forward: _Writer.block,
    SqueezeExcite.forward: _Writer.squeeze_excite,
    GlobalPool.forward: _Writer.global_pool,
    nn.Conv2d.forward: _Writer.conv,
    SameConv2d.forward: _Writer.conv,
    PooledConv2d.forward: lambda to, conv, name, x: to.weighted("Conv", conv, name, x, kernel_shape=[1, 1]),
    nn.Linear.forward: lambda to, linear, name, x: to.weighted("Gemm", linear, name, x, transB=1),
    nn.SiLU.forward: lambda to, _, name, x: to.node("Mul", [x, to.node("Sigmoid", [x], f"{name}.sigmoid")], name),
    nn.Sigmoid.forward: lambda to, _, name, x: to.node("Sigmoid", [x], name),
    nn.ReLU.forward: lambda to, _, name, x: to.node("Relu", [x], name),
    nn.Hardtanh.forward: lambda to, act, name, x: to.clip(x, name, act.min_val, act.max_val),  # nn.ReLU6 is one
    nn.Identity.forward: lambda to, _, name, x: x,
}
"""What writes each kind of layer, by its forward, which a subclass may share. It gets a writer, the layer, the layer's
name and its input's name, and returns the name of its output."""
