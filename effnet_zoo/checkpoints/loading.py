"""State dicts into models: strictly, by reference, with a report of what became of every tensor."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keytable import CLASSIFIER, STEM, KeyTable, State, is_counter
from effnet_zoo.network.backbone import Backbone, init_weights
from effnet_zoo.network.model import EfficientNet, EfficientNetFeatures

VARIANCES = ("running_var", "moving_variance")
"""The names of batch norm's variance in PyTorch and in Keras."""

CLASSIFIER_PREFIX = "classifier."
OTHER_HEAD = "part of a head of another kind"
"""The reason why a tensor is left out, if it is no classifier as the models here have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The outcome for every tensor of a file and of a model.

    Attributes:
        source: Where the weights come from.
        layout: Whose keys they had.
        matched: Number of tensors taken as they are.
        reshaped: Taken in another shape, each with both: a stem for another number of channels.
        reinitialised: Drawn at random because another number of classes was asked for.
        dropped: The source's left out on purpose, each with the reason.
        notes: What was unwrapped or assumed.
    """

    source: str
    layout: str = "effnet_zoo"
    matched: int = 0
    reshaped: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.matched} tensors of {self.source} ({self.layout} keys)"]
        for what, keys in (("reshaped", self.reshaped), ("reinitialised", self.reinitialised)):
            if keys:
                parts.append(f"{len(keys)} {what} ({keys[0]}{', ...' if len(keys) > 1 else ''})")
        if self.dropped:
            reasons = dict.fromkeys(self.dropped.values())
            parts.append(f"{len(self.dropped)} left out ({', '.join(reasons)})")
        return "; ".join((*parts, *self.notes))


def load_state(
    model: Backbone,
    state: State,
    report: LoadReport,
    *,
    new_head: bool = False,
    device: torch.device | str | None = None,
) -> LoadReport:
    """Give a model the tensors of a state dict under this package's keys, and return the complete report.

    The tensors become the model's own, without a copy where device and dtype allow it. The model may be on the meta
    device, and is then on `device`. A stem for another number of channels is adapted (see `adapt_stem`). For a feature
    pyramid, the head and the stages that it does not have are left out. With `new_head`, because the caller asked for a
    number of classes, a classifier of another number is replaced by a random one.

    Raises:
        WeightsError: If a key is missing, left over or of another shape, or a value is refused by `check_values`.
            Nothing is changed then.
    """
    expected = model.state_dict()
    given, reshaped, dropped = dict(state), [], dict(report.dropped)
    if STEM in given and given[STEM].shape[1:2] != (model.in_chans,):
        before = tuple(given[STEM].shape)
        given[STEM] = adapt_stem(given[STEM], model.in_chans)
        reshaped.append(f"{STEM} {before} -> {tuple(given[STEM].shape)}")
    for key, reason in _unneeded(model, given, new_head=new_head).items():
        dropped[key] = reason
        del given[key]
    check_values(given, report.source)
    head_left_out = any(key.startswith(CLASSIFIER_PREFIX) or reason == OTHER_HEAD for key, reason in dropped.items())
    is_new = head_left_out and CLASSIFIER not in given
    fresh = sorted(key for key in expected if key.startswith(CLASSIFIER_PREFIX)) if is_new else []
    matched = expected.keys() & given.keys()
    misfits = [key for key in sorted(matched) if given[key].shape != expected[key].shape]
    shapes = [f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}" for key in misfits]
    problems = {
        "missing": sorted(expected.keys() - given.keys() - set(fresh)),
        "left over": sorted(given.keys() - expected.keys()),
        "of another shape": shapes,
    }
    if any(problems.values()):
        found = "; ".join(f"{len(keys)} {what} ({keys[0]}, ...)" for what, keys in problems.items() if keys)
        backbone = tuple({f"{key.partition('.')[0]}." for key in expected} - {CLASSIFIER_PREFIX})
        is_whole = not any(key.startswith(backbone) for keys in problems.values() for key in keys)
        advice = ". Its backbone is whole: num_classes=0 takes it without the head" if is_whole and not new_head else ""
        raise WeightsError(f"{report.source} does not fit the model: {found}{advice}")
    if fresh:
        assert isinstance(model, EfficientNet)
        model.classifier.to_empty(device=device or "cpu")
        init_weights(model.classifier)
        given |= {key: tensor for key, tensor in model.state_dict().items() if key in fresh}
    placed = {key: given[key].to(device=device, dtype=expected[key].dtype).contiguous() for key in expected}
    model.load_state_dict(placed, assign=True)
    return dataclasses.replace(
        report,
        matched=len(matched) - len(reshaped),
        reshaped=tuple(reshaped),
        reinitialised=tuple(fresh),
        dropped=dropped,
    )


def check_values(state: State, source: str) -> None:
    """Refuse tensors that are not of floating point or hold NaN or infinity, and variances below 0.

    This reads every value once: 17 ms for B5 (122 MB, one core).
    """
    for key, tensor in state.items():
        if is_counter(key) or tensor.is_meta:
            continue
        if not tensor.is_floating_point():
            # A quantised file has the keys and shapes of the weights, but their values only together with its scales.
            raise WeightsError(f"{source}: {key} is {tensor.dtype}: expected floating point, as before quantising")
        values = tensor.detach() if tensor.element_size() > 1 else tensor.float()
        # A sum is finite if all values are, unless it overflows.
        total = values.sum(dtype=None if values.dtype == torch.float64 else torch.float32)
        if not math.isfinite(total.item()) and (count := int((~values.isfinite()).sum())):
            found = f"{key} has {count} values that are NaN or infinite, of {values.numel()}"
            raise WeightsError(f"{source}: {found}: the training went wrong: take an earlier checkpoint")
        if key.endswith(VARIANCES) and values.numel() and (least := values.min().item()) < 0:
            raise WeightsError(f"{source}: {key} has a variance of {least:g}: expected none below 0")


def replaced_head(file: StateFile, table: KeyTable, num_classes: int) -> StateFile:
    """Return a file without a head that no model here has, because the caller asks for a number of classes.

    A plain classifier stays: `load_state` takes or replaces it. A head that may have the number of classes that was
    asked for is a WeightsError: it is not replaced by a random one.
    """
    head = table.head(file.state)
    weight, bias = (f"{table.network[-1]}{table.separator}{leaf}" for leaf in ("weight", "bias"))
    rows = {key: len(tensor) if tensor.dim() else 0 for key, tensor in head.items()}
    ours = {weight, bias} <= rows.keys() and head[weight].dim() == 2
    if not head or (ours and (len(head) == 2 or rows[weight] == num_classes)):
        return file
    if num_classes and num_classes in rows.values():
        found = f"a head of its own for perhaps {num_classes} classes ({', '.join(sorted(head))})"
        raise WeightsError(f"{file.source} has {found}: num_classes=0 takes the backbone without it")
    backbone = {key: tensor for key, tensor in file.state.items() if key not in head}
    return dataclasses.replace(file, state=backbone, dropped={**file.dropped, **dict.fromkeys(head, OTHER_HEAD)})


def _unneeded(model: Backbone, state: State, *, new_head: bool) -> dict[str, str]:
    """Return the keys that the model does not take, each with the reason."""
    if isinstance(model, EfficientNetFeatures):
        stages = range(len(model.blocks), len(model.arch.stages))
        prefixes = ("conv_head.", "bn2.", CLASSIFIER_PREFIX, *(f"blocks.{stage}." for stage in stages))
        return {key: "not part of the feature pyramid" for key in state if key.startswith(prefixes)}
    rows = len(state[CLASSIFIER]) if CLASSIFIER in state else 0
    if new_head and isinstance(model, EfficientNet) and rows and rows != model.num_classes:
        reason = f"{rows} classes, {model.num_classes} were asked for"
        return {key: reason for key in state if key.startswith(CLASSIFIER_PREFIX)}
    return {}


def adapt_stem(weight: Tensor, in_chans: int) -> Tensor:
    """Return a stem's weight for another number of channels, as timm's `adapt_input_conv` does.

    One channel gets the sum of the three, so that a grey image gives what the same image in three channels gives.
    N channels repeat the three in turn, scaled by 3 / N, so that the sum stays about the same. The weight is
    (filters, 3, 3, 3).
    """
    channels = weight.shape[1]
    if channels != 3:
        raise WeightsError(f"{STEM} has {channels} channels: expected {in_chans}, or 3 to adapt from")
    wide = weight.float()  # a sum in half precision would round three times
    if in_chans == 1:
        wide = wide.sum(dim=1, keepdim=True)
    else:
        wide = wide[:, [channel % 3 for channel in range(in_chans)]] * (3 / in_chans)
    return wide.to(weight.dtype)
