"""State dicts: read from a file without running anything in it, and loaded strictly."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from effnet_zoo.backbone import Backbone
from effnet_zoo.convert import LAYOUTS
from effnet_zoo.errors import WeightsError
from effnet_zoo.model import EfficientNet, EfficientNetFeatures
from effnet_zoo.spec import ArchSpec

State = dict[str, Tensor]
STEM = "conv_stem.weight"
CLASSIFIER = "classifier.weight"


def read_state(path: Path) -> State:
    """Tensors by name from a ``.safetensors`` file, or from a pickle of nothing but tensors.

    Raises:
        WeightsError: If the file is neither, is damaged, or would run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such weight file") from None
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    except Exception as error:  # torch.load raises whatever the zip, the unpickler or a tensor raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"{path} is not a file of plain tensors that torch.load can read: {reason[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: expected a flat dict of tensors, a state_dict")
    return state


def own_keys(state: Mapping[str, Tensor], arch: ArchSpec, layout: str | None = None) -> State:
    """A state dict under this package's keys.

    Args:
        state: In this package's layout, or one of `effnet_zoo.convert.LAYOUTS`.
        arch: The network it is for.
        layout: The layout if known; else it is told from the stem's key.

    Raises:
        WeightsError: If the keys are of no known layout, or the layout cannot express the network.
    """
    if STEM in state and layout is None:
        return dict(state)
    for table in LAYOUTS.values():
        stem = f"{table.network['conv_stem']}.weight"
        if table.name == layout or (layout is None and stem in state):
            return table.to_ours(state, arch)
    raise WeightsError(
        f"the keys ({', '.join(sorted(state)[:3])}, ...) are of no known layout: "
        f"expected effnet_zoo, timm, geffnet, {', '.join(LAYOUTS)}"
    )


def load_state(model: Backbone, state: State, *, new_head: bool, source: str) -> None:
    """Load a state dict into a model, or refuse it before anything is copied.

    A stem for another number of channels is adapted (see `adapt_stem`). Of a feature pyramid the stages it does not
    have, and the head, are left out.

    Args:
        model: To load into.
        state: Under this package's keys.
        new_head: Whether the caller asked for a number of classes. If the state has a classifier of another number,
            the model then keeps its new one; otherwise that is an error.
        source: Where the state comes from, for errors.

    Raises:
        WeightsError: If a key is missing, left over or of another shape.
    """
    wanted = model.state_dict()
    given = dict(state)
    if STEM in given:
        given[STEM] = adapt_stem(given[STEM], model.in_chans)
    for key in [key for key in given if key.startswith(_unneeded(model, given, new_head=new_head))]:
        del given[key]
        if key in wanted:
            given[key] = wanted[key]
    missing = sorted(wanted.keys() - given.keys())
    left_over = sorted(given.keys() - wanted.keys())
    reshaped = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    if missing or left_over or reshaped:
        counts = {"missing": missing, "left over": left_over, "of another shape": reshaped}
        report = "; ".join(f"{len(keys)} {what} ({keys[0]}, ...)" for what, keys in counts.items() if keys)
        raise WeightsError(f"{source} does not fit the model: {report}")
    model.load_state_dict(given)


def _unneeded(model: Backbone, state: State, *, new_head: bool) -> tuple[str, ...]:
    """Prefixes of keys that the model was built without, or with a new classifier instead."""
    if isinstance(model, EfficientNetFeatures):
        stages = range(len(model.blocks), len(model.arch.stages))
        return ("conv_head.", "bn2.", "classifier.", *(f"blocks.{stage}." for stage in stages))
    rows = len(state[CLASSIFIER]) if CLASSIFIER in state else 0
    if new_head and isinstance(model, EfficientNet) and rows and rows != model.num_classes:
        return ("classifier.",)
    return ()


def adapt_stem(weight: Tensor, in_chans: int) -> Tensor:
    """A stem's weight for another number of channels, always the same way.

    One channel gets the sum over the channels, so a grey image gives what the same image in all channels gave. N get
    the channels in turn, scaled so that the sum over all stays.

    Args:
        weight: (filters, channels, 3, 3), of 3 channels unless `in_chans` is the same number.
        in_chans: Channels wanted.

    Raises:
        WeightsError: If another number than 3 would have to be adapted.
    """
    channels = weight.shape[1]
    if channels == in_chans:
        return weight
    if channels != 3:
        raise WeightsError(f"{STEM} has {channels} channels: expected {in_chans}, or 3 to adapt from")
    adapted: Tensor = adapt_input_conv(in_chans, weight)
    return adapted
