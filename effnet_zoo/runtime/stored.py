"""A folded model in a folder: weights as safetensors, the network as JSON, for a child process to read."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from effnet_zoo import documents
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.statefile import write
from effnet_zoo.errors import EngineError
from effnet_zoo.network.folding import optimize
from effnet_zoo.network.model import EfficientNet

WEIGHTS, NETWORK = "weights.safetensors", "network.json"


def store(model: EfficientNet, folder: Path) -> None:
    """Writes a folded model into a folder.

    Args:
        model: What `optimize` gave, on any device.
        folder: An empty folder.
    """
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    write(folder / WEIGHTS, state)
    network = {
        "arch": model.arch.to_dict(),
        "num_classes": model.num_classes,
        "in_chans": model.in_chans,
        "global_pool": model.global_pool.pool_type,
        "output_stride": model.output_stride,
        "device": str(model.conv_stem.weight.device),
        "dtype": str(model.conv_stem.weight.dtype).removeprefix("torch."),
        "layers": str(model),
    }
    (folder / NETWORK).write_text(json.dumps(network), encoding="utf-8")


def stored(folder: Path) -> EfficientNet:
    """Reads the folded model that `store` wrote, contiguous, on the device it was on.

    Raises:
        EngineError: If its layers are not those that its specification says: somebody changed them, and a file made
            of the specification would compute something else.
    """
    network = documents.from_json((folder / NETWORK).read_bytes(), dict[str, Any], NETWORK, EngineError)
    dtype, layers = getattr(torch, network.pop("dtype")), network.pop("layers")
    device, arch = network.pop("device"), ArchSpec.from_dict(network.pop("arch"))
    model = optimize(EfficientNet(arch, **network), dtype)
    if str(model) != layers:
        mine, theirs = str(model).splitlines(), layers.splitlines()
        pairs = zip(mine, theirs, strict=False)
        expected, found = next((pair for pair in pairs if pair[0] != pair[1]), (mine[-1], theirs[-1]))
        raise EngineError(
            f"the model's layers are not those of its specification: found {found.strip()}, expected "
            f"{expected.strip()}: expected a model as this package builds it"
        )
    model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    return model.to(device).to(memory_format=torch.contiguous_format)
