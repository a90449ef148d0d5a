"""State dicts and models in every layout of PyTorch, for tests of reading and converting them."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import efficientnet_pytorch
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.keytable import State
from effnet_zoo.numerics import randomise
from effnet_zoo.transfer.conversion import Images
from tests.parity import common
from tests.shell import Run

with warnings.catch_warnings():
    # geffnet compiles its activations with torch.jit.script when it is imported.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
    import geffnet

# Keras's have tests of their own.
TORCH = {name: layout for name, layout in LAYOUTS.items() if not name.startswith("keras")}

NETWORKS = [(layout, name) for layout in TORCH for name in TORCH[layout].archs]

HALVES = Images(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def refused(run: Run, message: str, *arguments: str | Path) -> None:
    """The command says no in one line, and leaves no folder."""
    (out,) = [value for option, value in itertools.pairwise(arguments) if option == "--out"]
    siblings = set(Path(out).parent.iterdir())
    code, said, err = run("convert", *arguments)
    assert (code, said) == (1, "")
    assert err.startswith("effnet-zoo: ")
    assert err.count("\n") == 1
    assert message in err
    assert set(Path(out).parent.iterdir()) == siblings


def meta_state(layout: str, name: str, **options: Any) -> State:
    """A state dict of a layout that takes no memory."""
    arch = TORCH[layout].archs[name]
    with common.unallocated():
        return TORCH[layout].table.to_theirs(EfficientNet(arch, **options).state_dict(), arch)


def weights(layout: str, name: str, **options: Any) -> State:
    """One with drawn values."""
    arch = TORCH[layout].archs[name]
    model = common.drawn(lambda: EfficientNet(arch, **options), seed=1)
    return {key: tensor.contiguous() for key, tensor in TORCH[layout].table.to_theirs(model.state_dict(), arch).items()}


def write(path: Path, state: State) -> Path:
    save_file(state, path, metadata={"format": "pt"})
    return path


def changed(layout: str, name: str, changes: dict[str, Tensor | None], **options: Any) -> State:
    state = {**meta_state(layout, name, **options), **changes}
    return {key: value for key, value in state.items() if value is not None}


def hollow(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def logits(model: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        out = model.eval().double()(x)
    assert isinstance(out, Tensor)
    return out


def library(name: str, num_classes: int = 5, in_chans: int = 3) -> nn.Module:
    """A network of another library."""
    built: Any
    if name == "efficientnet_pytorch":
        built = efficientnet_pytorch.EfficientNet.from_name(
            "efficientnet-b0", num_classes=num_classes, in_channels=in_chans, image_size=None
        )
    elif name == "torchvision":
        built = torchvision.models.efficientnet_b0(num_classes=num_classes)
    elif name == "geffnet":
        built = geffnet.create_model("tf_efficientnet_b0", num_classes=num_classes, in_chans=in_chans)
    else:
        built = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    model: nn.Module = randomise(built, seed=2)
    return model
