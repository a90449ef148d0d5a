"""Int8: which layers, how their weights are rounded, and on which images."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet, optimize
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import Deployed
from effnet_zoo.runtime.int8 import rounding
from effnet_zoo.runtime.int8.calibration import Images, batches
from effnet_zoo.runtime.int8.recipes import RECIPES, front_layers, groups, layers
from effnet_zoo.runtime.int8.rounding import LEVELS, observe, round_weights, to_uint8
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.zoo.preprocessing import preprocessing_of
from tests.runtime.int8 import LITE0, drawn, network


def test_recipes_spare_the_front_and_the_head() -> None:
    model = EfficientNet.from_name("effnet_zoo_b0")
    every = list(layers(model))
    assert RECIPES["int8"].quantized(model) == every
    assert list(front_layers(model, 4)) == [
        "conv_stem",
        *(f"blocks.0.0.{name}" for name in ("conv_dw", "se.conv_reduce", "se.conv_expand", "conv_pw")),
        *(f"blocks.1.0.{name}" for name in ("conv_pw", "conv_dw", "se.conv_reduce", "se.conv_expand", "conv_pwl")),
    ]
    blocks = {".".join(name.split(".")[:3]) for name in front_layers(model, 8)}
    assert blocks == {"conv_stem", "blocks.0.0", "blocks.1.0", "blocks.1.1", "blocks.2.0"}
    assert set(every) - set(RECIPES["front-8-head"].quantized(model)) == {
        *front_layers(model, 8),
        "conv_head",
        "classifier",
    }
    assert len(groups(model, every)["squeeze-excite"]) == 2 * 16


def test_every_layer_is_in_one_group() -> None:
    model = EfficientNet.from_name("effnet_zoo_v2_b0")
    found = groups(model, layers(model))
    assert set(found) == {"stem", "squeeze-excite", "head", "classifier", *(f"stage {number}" for number in range(6))}
    assert sorted(name for names in found.values() for name in names) == sorted(layers(model))


@pytest.mark.parametrize("name", ["effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_v2_s"])
def test_rounded_weights_lie_on_grids_of_their_largest(name: str) -> None:
    folded = optimize(network(name))
    before = {key: layer.weight.clone() for key, layer in layers(folded).items()}
    round_weights(folded, observe(Deployed(folded, Interface(), None), drawn(16).split(4)))
    for key, layer in layers(folded).items():
        flat, was = layer.weight.flatten(1), before[key].flatten(1)
        assert torch.allclose(flat.abs().amax(1), was.abs().amax(1), rtol=1e-6)
        steps = flat / (was.abs().amax(1, keepdim=True) / LEVELS)
        assert (steps - steps.round()).abs().max() < 1e-3
        assert not torch.equal(steps.round(), (was / (was.abs().amax(1, keepdim=True) / LEVELS)).round())


def test_errors_made_up_for_cost_less_than_rounding_to_the_nearest(folders: tuple[Path, Path]) -> None:
    model = EfficientNet.from_pretrained(LITE0).eval()
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    calibration, some = (
        torch.stack([transform(open_image(path)) for path in sorted(folder.iterdir())[:24]]) for folder in folders
    )
    folded, nearest = optimize(model), optimize(model)
    for layer in layers(nearest).values():
        scale = layer.weight.abs().flatten(1).amax(1).clamp_min(1e-12) / LEVELS
        scale = scale.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight.copy_((layer.weight / scale).round() * scale)
    round_weights(folded, observe(Deployed(folded, Interface(), None), calibration.split(1)))
    with torch.inference_mode():
        ours, theirs = (relative_error(one(some), model(some)) for one in (folded, nearest))
    assert ours < 0.6 * theirs


@pytest.mark.parametrize("size", [(64, 64), (65, 98)])
def test_moments_are_those_of_what_the_convolution_multiplies(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "POSITIONS", 1_000_000)
    # Of a layer's outputs w.x the mean square is w'Mw, whatever its kernel, padding and groups.
    folded = optimize(network("effnet_zoo_v2_s"))
    some = drawn(2, size)
    seen = observe(Deployed(folded, Interface(), None), [some])
    means: dict[str, Tensor] = {}
    found = layers(folded)
    for key, layer in found.items():

        def note(module: nn.Module, _: Any, output: Tensor, key: str = key) -> None:
            assert isinstance(module, nn.Conv2d | nn.Linear)
            assert module.bias is not None
            outputs = output.transpose(0, 1).flatten(1) - module.bias[:, None]
            means[key] = outputs.double().square().mean(1)

        layer.register_forward_hook(note)
    with torch.inference_mode():
        folded(some)
    for key, layer in found.items():
        one = seen[key]
        weight = layer.weight.detach().double().flatten(1).view(one.moments.shape[0], -1, one.moments.shape[1])
        squares = ((weight @ (one.moments / one.count)) * weight).sum(2).flatten()
        assert torch.allclose(squares, means[key], rtol=1e-4), key


def test_zero_stays_zero_in_uint8() -> None:
    x = torch.tensor([-1.0, -0.3, 0.0, 0.7, 2.0])
    rounded = to_uint8(x, -1.0, 2.0)
    assert rounded[2] == 0
    assert (rounded - x).abs().max() <= 3.0 / 255
    assert to_uint8(torch.zeros(3), 0.0, 0.0).abs().max() == 0


def test_images_are_held_once(few: Path) -> None:
    found = Images.of(few, None, lambda path: torch.zeros(3, 100, 100), most=30, classes=None)
    single = list(batches(found.calibration.values(), 1))
    assert [batch.data_ptr() for batch in single] == [image.data_ptr() for image in found.calibration.values()]
    several = batches(found.comparison.values(), 8)
    assert next(several).shape == (8, 3, 100, 100)
    assert inspect.isgenerator(several)  # no batch is made before it is asked for


def test_images_are_split_so_that_none_is_used_twice(folders: tuple[Path, Path]) -> None:
    broken = folders[0] / "broken.jpg"
    broken.write_text("not an image")
    try:
        found = Images.of(folders[0], None, lambda path: torch.zeros(open_image(path).size), most=30, classes=None)
    finally:
        broken.unlink()
    assert (len(found.calibration), len(found.comparison), found.unreadable) == (20, 80, 1)
    assert not set(found.calibration) & set(found.comparison)
