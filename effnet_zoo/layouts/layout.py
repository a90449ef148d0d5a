"""What each library fixes beside its keys: the architectures it has, their numerics, and how its images are prepared.

None of that can be seen in a file. It is the library's convention, and whoever reads a file says that it was assumed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from effnet_zoo.arch import efficientnetv2
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.layouts import efficientnet_pytorch, effnet_zoo, effnetv2_port, torchvision, transformers
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2, MODELS
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

V1 = tuple(f"effnet_zoo_b{number}" for number in range(8))
LITE = tuple(f"effnet_zoo_lite{number}" for number in range(5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A library's files.

    Attributes:
        table: Its keys.
        archs: Its architectures under our variants' names; a name of its own where we have no such variant.
        preprocessing: How it prepares images for one of them; None where it has no convention.
        convention: What of this a file does not show, in words.
        loads_with: How its users load a state dict.
        told: What a file of its own beside the weights tells, and may thus differ from the convention.
        pools: The poolings its networks can have.
    """

    table: KeyTable
    archs: Callable[[], Mapping[str, ArchSpec]]
    preprocessing: Callable[[str], Preprocessing | None]
    convention: str
    loads_with: str
    told: tuple[str, ...] = ()
    pools: tuple[str, ...] = ("avg",)

    @property
    def name(self) -> str:
        """The library's."""
        return self.table.name


@cache
def _ours() -> Mapping[str, ArchSpec]:
    return {name: model.spec for name, model in catalogue.models().items()}


def _some_of_ours(*names: str) -> Callable[[], Mapping[str, ArchSpec]]:
    return lambda: {name: _ours()[name] for name in names}


@cache
def _torchvision() -> Mapping[str, ArchSpec]:
    """Symmetric padding; eps 1e-5, but 1e-3 from B5 and for V2 (torchvision/models/efficientnet.py, norm_layer)."""
    coarse = ("effnet_zoo_b5", "effnet_zoo_b6", "effnet_zoo_b7")
    v2 = tuple(f"effnet_zoo_v2_{size}" for size in "sml")
    return {
        name: dataclasses.replace(_ours()[name], padding="symmetric", bn_eps=1e-3 if name in coarse + v2 else 1e-5)
        for name in (*V1, *v2)
    }


@cache
def _port() -> Mapping[str, ArchSpec]:
    """Head 1792, stem 24, no 1x1-free first stage, squeeze widths rounded to 8; S first had a last stage of 272."""

    def arch(rows: tuple[tuple[int, int, int, int, int], ...]) -> ArchSpec:
        return dataclasses.replace(
            ArchSpec.from_rows(rows, stem=24, head=1792),
            padding="symmetric",
            bn_eps=1e-5,
            bn_momentum=0.1,
            drop_rate=0.0,
            drop_path_rate=0.0,
            se_divisor=8,
            fused_always_projects=True,
        )

    t, _, n, s, fused = efficientnetv2.S[-1]
    return {
        "effnetv2_port_s_272": arch((*efficientnetv2.S[:-1], (t, 272, n, s, fused))),
        "effnetv2_port_s": arch(efficientnetv2.S),
        "effnetv2_port_m": arch(efficientnetv2.M),
        "effnetv2_port_l": arch(efficientnetv2.L),
        "effnetv2_port_xl": arch(efficientnetv2.XL),
    }


def _square(
    side: int,
    *,
    crop_pct: float,
    interpolation: str = "bicubic",
    crop_mode: str = "center",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Preprocessing:
    return Preprocessing(
        size=(side, side), crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation, mean=mean, std=std
    )


def _efficientnet_pytorch_images(name: str) -> Preprocessing:
    """V1: bicubic to the variant's size, nothing cropped off (examples/imagenet/main.py). Lite: as the ledger has it.

    AdvProp's files have the same keys and need mean and standard deviation 0.5.
    """
    model = catalogue.models()[name]
    return model.default.preprocessing if name in LITE else _square(model.spec.image_size, crop_pct=1.0)


def _torchvision_images(name: str) -> Preprocessing:
    """The transforms that torchvision names for its IMAGENET1K_V1 weights."""
    from torchvision.models import get_model_weights

    theirs = catalogue.models()[name].hub_name.replace("efficientnetv2", "efficientnet_v2")
    how = get_model_weights(theirs).IMAGENET1K_V1.transforms()
    (crop,), (resize,) = how.crop_size, how.resize_size
    return _square(
        crop, crop_pct=crop / resize, interpolation=how.interpolation.value, mean=tuple(how.mean), std=tuple(how.std)
    )


def _transformers_images(name: str) -> Preprocessing:
    """Resized to the variant's size whatever the aspect, nearest pixel (preprocessor_config.json of google's)."""
    side = catalogue.models()[name].spec.image_size
    return _square(side, crop_pct=1.0, interpolation="nearest", crop_mode="squash")


def _none(_: str) -> Preprocessing | None:
    """No convention: the checkpoints of one layout were trained with several."""
    return None


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            table=effnet_zoo.TABLE,
            archs=_ours,
            preprocessing=_none,
            convention="SAME padding, batch norm eps 1e-3 (timm's models without tf_ in their name: symmetric, 1e-5)",
            loads_with="timm.create_model('local-dir:DIR', pretrained=True)",
        ),
        Layout(
            table=efficientnet_pytorch.TABLE,
            archs=_some_of_ours(*V1, "effnet_zoo_b8", "effnet_zoo_l2", *LITE),
            preprocessing=_efficientnet_pytorch_images,
            convention="SAME padding, batch norm eps 1e-3; mean and std of ImageNet (AdvProp's files, which look the "
            "same: 0.5 and 0.5)",
            loads_with="efficientnet_pytorch: "
            "EfficientNet.from_name(NAME).load_state_dict(load_file('DIR/model.safetensors'))",
        ),
        Layout(
            table=torchvision.TABLE,
            archs=_torchvision,
            preprocessing=_torchvision_images,
            convention="symmetric padding, batch norm eps 1e-5 (B5 and up, and V2: 1e-3); images as for IMAGENET1K_V1",
            loads_with="torchvision: models.efficientnet_*().load_state_dict(load_file('DIR/model.safetensors'))",
        ),
        Layout(
            table=transformers.TABLE,
            archs=_some_of_ours(*V1),
            preprocessing=_transformers_images,
            convention="SAME padding, batch norm eps 1e-3; images as google's repositories prepare them",
            loads_with="transformers: AutoModelForImageClassification.from_pretrained(DIR)",
            told=("bn_eps", "activation"),
            pools=("avg", "max"),
        ),
        *(
            Layout(
                table=table,
                archs=_some_of_ours(*(name for of, name in MODELS.values() if of is table)),
                preprocessing=_none,
                convention="SAME padding, batch norm eps 1e-3; images resized whatever the aspect, bilinear",
                loads_with=f"keras.applications: {call}.load_weights('DIR/model.weights.h5')",
            )
            for table, call in (
                (KERAS_V1, "EfficientNetB*(weights=None)"),
                (KERAS_V2, "EfficientNetV2*(weights=None, include_preprocessing=False)"),
            )
        ),
        Layout(
            table=effnetv2_port.TABLE,
            archs=_port,
            preprocessing=_none,
            convention="symmetric padding, batch norm eps 1e-5",
            loads_with="effnetv2.py: effnetv2_*().load_state_dict(load_file('DIR/model.safetensors'))",
        ),
    )
}
