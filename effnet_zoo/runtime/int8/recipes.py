"""Choose layers that become int8: recipes from all layers to fewer, and groups of layers whose cost is measured.

In every recipe, everything between the convolutions stays in float: activations, the sigmoid of squeeze-excite and its
product, residual sums, pooling. A runtime computes these when it writes a convolution's outputs, so int8 would not make
them faster. SiLU and the gate are also where int8 EfficientNets lose their accuracy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from effnet_zoo.network.layers import PooledConv2d
from effnet_zoo.network.model import EfficientNet


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Which layers stay in float.

    Attributes:
        name: The recipe's name.
        help: A description for people.
        front: The stride at which int8 begins, 0 for the first layer. Layers on larger maps have hardly any weights,
            but their errors pass through all other layers.
        head: Whether the head's convolution and the classifier stay in float. They have a third of a small network's
            weights.
    """

    name: str
    help: str
    front: int = 0
    head: bool = False

    def quantized(self, model: EfficientNet) -> list[str]:
        """Return the names of the layers that become int8."""
        kept = {*front_layers(model, self.front), *(("conv_head", "classifier") if self.head else ())}
        return [name for name in layers(model) if name not in kept]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="int8", help="every convolution and the classifier in int8"),
        Recipe(name="front-4", help="layers on maps larger than a quarter of the image in float", front=4),
        Recipe(name="front-8", help="layers on maps larger than an eighth of the image in float", front=8),
        Recipe(name="front-8-head", help="the same, and head and classifier in float", front=8, head=True),
    )
}
"""Recipes by name, the smallest and fastest file first. A search tries them in this order.

Squeeze-excite's two convolutions always become int8: of all groups they cost least (B0 on digits, 0.01 of 0.13), and
they have a sixth of its weights.
"""


def layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return every convolution and the classifier, by name, in the order of the network."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


def front_layers(model: EfficientNet, until: int) -> Iterator[str]:
    """Yield the names of the stem's and the blocks' layers whose input has a smaller stride than `until`."""
    stages = model.blocks.named_children()
    blocks = [(f"blocks.{stage}.{place}", block) for stage, inner in stages for place, block in inner.named_children()]
    stride = 1
    for name, part in [("conv_stem", model.conv_stem), *blocks]:
        if stride >= until:
            return
        for inner_name, layer in layers(part).items():
            stride *= layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
            yield f"{name}.{inner_name}" if inner_name else name


def groups(model: EfficientNet, names: Iterable[str]) -> dict[str, list[str]]:
    """Return layers by the part of the network: stem, each stage, squeeze-excite, head, classifier."""
    every, found = layers(model), dict[str, list[str]]()
    for name in names:
        if isinstance(every[name], PooledConv2d):
            group = "squeeze-excite"
        elif name.startswith("blocks."):
            group = f"stage {name.split('.')[1]}"
        else:
            group = {"conv_stem": "stem", "conv_head": "head"}.get(name, name)
        found.setdefault(group, []).append(name)
    return found
