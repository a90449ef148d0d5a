"""Every declaration against what was published, and against what other write-ups of these networks get wrong."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import effnet_zoo
from effnet_zoo.arch.blocks import BlockSpec
from effnet_zoo.arch.families import FAMILIES
from effnet_zoo.arch.spec import ArchSpec, variant_spec
from effnet_zoo.zoo.catalogue import Model, models

HUB = {model.hub_name: model for model in models().values()}
V1 = [f"efficientnet_{name}" for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")]
V2 = [name for name in HUB if name.startswith("efficientnetv2_")]
SQUEEZED = [*V1, *V2]


def blocks(spec: ArchSpec) -> list[BlockSpec]:
    return [block for stage in spec.blocks() for block in stage]


def running_statistics(spec: ArchSpec) -> int:
    """A mean and a variance for each filter of each batch norm, which TensorFlow counts as parameters."""
    normed = spec.stem_filters + spec.head_filters
    for block in blocks(spec):
        inside = {"mbconv": 2, "separable": 1, "fused": 1, "conv": 0}[block.kind]
        normed += inside * block.mid_filters + block.out_filters
    return 2 * normed


# -- All of them, by name -----------------------------------------------------------------------------------------

# fmt: off
VARIANTS = (
    # timm                torch.hub               size  dropout  stem  head
    ("effnet_zoo_b0",     "efficientnet_b0",       224,   0.2,    32,  1280),
    ("effnet_zoo_b1",     "efficientnet_b1",       240,   0.2,    32,  1280),
    ("effnet_zoo_b2",     "efficientnet_b2",       260,   0.3,    32,  1408),
    ("effnet_zoo_b3",     "efficientnet_b3",       300,   0.3,    40,  1536),
    ("effnet_zoo_b4",     "efficientnet_b4",       380,   0.4,    48,  1792),
    ("effnet_zoo_b5",     "efficientnet_b5",       456,   0.4,    48,  2048),
    ("effnet_zoo_b6",     "efficientnet_b6",       528,   0.5,    56,  2304),
    ("effnet_zoo_b7",     "efficientnet_b7",       600,   0.5,    64,  2560),
    ("effnet_zoo_b8",     "efficientnet_b8",       672,   0.5,    72,  2816),
    ("effnet_zoo_l2",     "efficientnet_l2",       800,   0.5,   136,  5504),
    ("effnet_zoo_lite0",  "efficientnet_lite0",    224,   0.2,    32,  1280),
    ("effnet_zoo_lite1",  "efficientnet_lite1",    240,   0.2,    32,  1280),
    ("effnet_zoo_lite2",  "efficientnet_lite2",    260,   0.3,    32,  1280),
    ("effnet_zoo_lite3",  "efficientnet_lite3",    280,   0.3,    32,  1280),
    ("effnet_zoo_lite4",  "efficientnet_lite4",    300,   0.3,    32,  1280),
    ("effnet_zoo_es",     "efficientnet_es",       224,   0.2,    32,  1280),
    ("effnet_zoo_em",     "efficientnet_em",       240,   0.2,    32,  1280),
    ("effnet_zoo_el",     "efficientnet_el",       300,   0.3,    40,  1536),
    ("effnet_zoo_v2_s",   "efficientnetv2_s",      384,   0.2,    24,  1280),
    ("effnet_zoo_v2_m",   "efficientnetv2_m",      480,   0.3,    24,  1280),
    ("effnet_zoo_v2_l",   "efficientnetv2_l",      480,   0.4,    32,  1280),
    ("effnet_zoo_v2_xl",  "efficientnetv2_xl",     512,   0.4,    32,  1280),
    ("effnet_zoo_v2_b0",  "efficientnetv2_b0",     224,   0.2,    32,  1280),
    ("effnet_zoo_v2_b1",  "efficientnetv2_b1",     240,   0.2,    32,  1280),
    ("effnet_zoo_v2_b2",  "efficientnetv2_b2",     260,   0.3,    32,  1408),
    ("effnet_zoo_v2_b3",  "efficientnetv2_b3",     300,   0.3,    40,  1536),
)
# fmt: on


def test_all_published_variants_are_there_under_both_names() -> None:
    assert {row[:2] for row in VARIANTS} <= {(model.name, model.hub_name) for model in models().values()}


DECLARED = {family.timm_prefix + variant.name: (family, variant) for family in FAMILIES for variant in family.variants}


@pytest.mark.parametrize("row", VARIANTS, ids=[row[0] for row in VARIANTS])
def test_sizes_dropout_stem_and_head_are_the_official_ones(row: tuple[str, str, int, float, int, int]) -> None:
    name, _, size, dropout, stem, head = row
    spec, (_, variant) = models()[name].spec, DECLARED[name]
    assert (variant.size, variant.dropout) == (size, dropout)
    assert (spec.image_size, spec.drop_rate) == (size, dropout)
    assert (spec.stem_filters, spec.head_filters) == (stem, head)


# -- Parameters ---------------------------------------------------------------------------------------------------

LEARNABLE, ALL = "learnable", "with running statistics"

# fmt: off
PUBLISHED_PARAMETERS = (
    # Millions, and the unit they are rounded to. The papers are not of one mind on what to count: all figures are met
    # exactly once batch norm's running statistics, which TensorFlow's `count_params` includes, count where noted.
    # model                 millions  unit  counted
    # EfficientNet v5 table 2
    ("efficientnet_b0",       5.3,    0.1,  LEARNABLE),
    ("efficientnet_b1",       7.8,    0.1,  LEARNABLE),
    ("efficientnet_b2",       9.2,    0.1,  ALL),        # 9.11 learnable, 9.18 in all
    ("efficientnet_b3",      12,      1,    LEARNABLE),
    ("efficientnet_b4",      19,      1,    LEARNABLE),
    ("efficientnet_b5",      30,      1,    LEARNABLE),
    ("efficientnet_b6",      43,      1,    LEARNABLE),
    ("efficientnet_b7",      66,      1,    LEARNABLE),
    # EfficientNetV2 v3 table 7
    ("efficientnetv2_s",     22,      1,    ALL),        # 21.46 learnable, 21.61 in all
    ("efficientnetv2_m",     54,      1,    LEARNABLE),
    ("efficientnetv2_l",    120,     10,    LEARNABLE),
    ("efficientnetv2_xl",   208,      1,    LEARNABLE),
    # EfficientNet-Lite README
    ("efficientnet_lite0",    4.7,    0.1,  LEARNABLE),
    ("efficientnet_lite1",    5.4,    0.1,  LEARNABLE),
    ("efficientnet_lite2",    6.1,    0.1,  LEARNABLE),
    ("efficientnet_lite3",    8.2,    0.1,  LEARNABLE),
    ("efficientnet_lite4",   13.0,    0.1,  LEARNABLE),
    # google/automl, efficientnetv2/README.md
    ("efficientnetv2_b0",     7.1,    0.1,  LEARNABLE),
    ("efficientnetv2_b1",     8.1,    0.1,  LEARNABLE),
    ("efficientnetv2_b2",    10.1,    0.1,  LEARNABLE),
    ("efficientnetv2_b3",    14.4,    0.1,  LEARNABLE),
    # timm results-imagenet.csv, October 2025: no paper states these
    ("efficientnet_b8",      87.41,   0.01, LEARNABLE),
    ("efficientnet_l2",     480.31,   0.01, LEARNABLE),
    ("efficientnet_es",       5.44,   0.01, LEARNABLE),
    ("efficientnet_em",       6.90,   0.01, LEARNABLE),
    ("efficientnet_el",      10.59,   0.01, LEARNABLE),
)

OFFICIAL_COUNTS = (
    # Exact counts that the authors' own tests assert.
    # google/automl, efficientnetv2/effnetv2_model_test.py
    ("efficientnet_b0",      5_330_564, ALL),
    ("efficientnet_b1",      7_856_232, ALL),
    ("efficientnet_b2",      9_177_562, ALL),
    ("efficientnet_b4",     19_466_816, ALL),
    ("efficientnet_b5",     30_562_520, ALL),
    ("efficientnet_b6",     43_265_136, ALL),
    ("efficientnetv2_b0",    7_200_312, ALL),
    ("efficientnetv2_b1",    8_212_124, ALL),
    ("efficientnetv2_b2",   10_178_374, ALL),
    ("efficientnetv2_b3",   14_467_622, ALL),
    ("efficientnetv2_s",    21_612_360, ALL),
    ("efficientnetv2_m",    54_431_388, ALL),
    ("efficientnetv2_l",   119_027_848, ALL),
    ("efficientnetv2_xl",  208_896_832, ALL),
    # tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder_test.py
    ("efficientnet_lite0",   4_652_008, LEARNABLE),
    ("efficientnet_lite1",   5_416_680, LEARNABLE),
    ("efficientnet_lite2",   6_092_072, LEARNABLE),
    ("efficientnet_lite3",   8_197_096, LEARNABLE),
    ("efficientnet_lite4",  13_006_568, LEARNABLE),
)
# fmt: on


def counted_parameters(name: str, counted: str) -> int:
    spec = HUB[name].spec
    return spec.parameters() + (running_statistics(spec) if counted == ALL else 0)


@pytest.mark.parametrize(("name", "millions", "unit", "counted"), PUBLISHED_PARAMETERS)
def test_parameters_round_to_the_published_figure(name: str, millions: float, unit: float, counted: str) -> None:
    assert abs(counted_parameters(name, counted) / 1e6 - millions) <= unit / 2


@pytest.mark.parametrize(("name", "count", "counted"), OFFICIAL_COUNTS)
def test_parameters_are_those_of_the_official_code(name: str, count: int, counted: str) -> None:
    assert counted_parameters(name, counted) == count


def test_the_v2_code_builds_another_b3() -> None:
    # The authors' V2 test asserts 12,314,268 for V1's B3 too. Their V2 code rounds filters without V1's correction, so
    # that its first stage has 16 filters, where the paper's code and all published weights have 24.
    family, b3 = DECLARED["effnet_zoo_b3"]
    uncorrected = variant_spec(dataclasses.replace(family, scaling={"round_limit": 0.0}), b3)
    assert uncorrected.parameters() + running_statistics(uncorrected) == 12_314_268
    assert uncorrected.stages[0].out_filters == 16
    assert HUB["efficientnet_b3"].spec.stages[0].out_filters == 24


def test_every_published_variant_has_a_published_figure() -> None:
    published = {row[1] for row in VARIANTS}
    assert {row[0] for row in PUBLISHED_PARAMETERS} == {row[0] for row in PUBLISHED_MACS} == published


# -- Multiply-accumulates -----------------------------------------------------------------------------------------

# fmt: off
PUBLISHED_MACS = (
    # Billions at a resolution, the tolerance, and by how much ours differ. Ours count convolutions and classifier at
    # sizes rounded up, as SAME padding makes them.
    # EfficientNet v5 table 2. Two figures or one were printed, so half a unit is up to 5 %; what B4 and B5 leave out
    # the paper does not say.
    ("efficientnet_b0",       0.39,  224, 0.02),  # -1.1 %
    ("efficientnet_b1",       0.70,  240, 0.02),  # -1.9 %
    ("efficientnet_b2",       1.0,   260, 0.02),  # -0.6 %
    ("efficientnet_b3",       1.8,   300, 0.02),  # +1.5 %
    ("efficientnet_b4",       4.2,   380, 0.05),  # +4.6 %
    ("efficientnet_b5",       9.9,   456, 0.04),  # +3.7 %
    ("efficientnet_b6",      19,     528, 0.02),  # +0.4 %
    ("efficientnet_b7",      37,     600, 0.025), # +2.0 %
    # EfficientNetV2 v3 table 7, which the authors' repository does not follow: see below.
    ("efficientnetv2_s",      8.8,   384, 0.05),  # -4.9 %
    ("efficientnetv2_m",     24,     480, 0.03),  # +2.4 %
    ("efficientnetv2_l",     53,     480, 0.06),  # +5.8 %
    ("efficientnetv2_xl",    94,     512, 0.01),  # -0.7 %
    # google/automl, efficientnetv2/README.md: the same networks counted by the code that defines them.
    ("efficientnetv2_s",      8.4,   384, 0.01),  # -0.4 %
    ("efficientnetv2_m",     24.7,   480, 0.01),  # -0.5 %
    ("efficientnetv2_l",     56.3,   480, 0.01),  # -0.4 %
    ("efficientnetv2_b0",     0.72,  224, 0.01),  # -0.3 %
    ("efficientnetv2_b1",     1.2,   240, 0.01),  # -0.3 %
    ("efficientnetv2_b2",     1.7,   260, 0.01),  # -0.1 %
    ("efficientnetv2_b3",     3.0,   300, 0.01),  # +0.4 %
    # EfficientNet-Lite README. TensorFlow's profiler counts what follows a convolution too: the difference is three
    # operations for each number that a convolution gives, a share that falls as the networks get wider.
    ("efficientnet_lite0",    0.407, 224, 0.06),  # -5.4 %
    ("efficientnet_lite1",    0.631, 240, 0.05),  # -4.9 %
    ("efficientnet_lite2",    0.899, 260, 0.05),  # -4.4 %
    ("efficientnet_lite3",    1.44,  280, 0.045), # -3.9 %
    ("efficientnet_lite4",    2.64,  300, 0.04),  # -3.3 %
    # timm benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv, which counts two more for each number that a convolution
    # gives (batch norm): no paper states these.
    ("efficientnet_b8",      63.48,  672, 0.02),  # -1.4 %
    ("efficientnet_l2",     479.12,  800, 0.01),  # -0.7 %
    ("efficientnet_es",       1.81,  224, 0.02),  # -1.2 %
    ("efficientnet_em",       3.04,  240, 0.01),  # -0.9 %
    ("efficientnet_el",       8.00,  300, 0.01),  # -0.8 %
)
# fmt: on


@pytest.mark.parametrize(("name", "billions", "size", "tolerance"), PUBLISHED_MACS)
def test_macs_are_near_the_published_figure(name: str, billions: float, size: int, tolerance: float) -> None:
    spec = HUB[name].spec
    assert spec.macs() == spec.macs(size=size)
    assert spec.macs() / 1e9 == pytest.approx(billions, rel=tolerance)


# -- Where a from-scratch B0 goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SQUEEZED)
def test_squeeze_width_is_a_quarter_of_the_input_not_of_the_expansion_nor_rounded(name: str) -> None:
    squeezed = [block for block in blocks(HUB[name].spec) if block.se_filters]
    assert all(block.se_filters == block.in_filters // 4 for block in squeezed)
    assert any(block.se_filters != block.mid_filters // 4 for block in squeezed)


def test_rounding_the_squeeze_width_to_8_would_show_in_all_but_three() -> None:
    assert {name for name in SQUEEZED if all(b.se_filters % 8 == 0 for b in blocks(HUB[name].spec))} == {
        "efficientnetv2_s",
        "efficientnetv2_l",
        "efficientnetv2_xl",
    }


def recorded(block: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """What enters the named layers of a block, and what leaves it, on random input.

    Batch norm normalises with the batch's statistics here, so that numbers without activation go well below zero.
    """
    torch.manual_seed(0)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            seen[name] = inputs[0].detach().clone()

        return hook

    for name in names:
        block.get_submodule(name).register_forward_pre_hook(keep(name))
    first = next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
    seen["output"] = block.train()(torch.randn(4, first.in_channels, 16, 16)).detach()
    return seen


LOWEST_SILU = -0.2785
"""SiLU's minimum: nothing that passed the activation is lower."""


def test_activations_follow_expand_and_depthwise_and_not_project() -> None:
    network: Any = effnet_zoo.create_model("efficientnet_b0")
    seen = recorded(network.blocks[1][0], ["bn1", "conv_dw", "bn2", "conv_pwl"])
    assert seen["conv_dw"].min() >= LOWEST_SILU
    assert seen["conv_pwl"].min() >= LOWEST_SILU
    assert seen["output"].min() < -1


def test_activations_of_a_fused_block_follow_expand_and_not_project() -> None:
    network: Any = effnet_zoo.create_model("efficientnetv2_b0")
    seen = recorded(network.blocks[1][0], ["conv_pwl"])
    assert seen["conv_pwl"].min() >= LOWEST_SILU
    assert seen["output"].min() < -1


# -- Where EfficientNetV2 in one file goes wrong ------------------------------------------------------------------


def test_v2_s_ends_in_256_filters_and_a_head_of_1280() -> None:
    # The first arXiv version had 272 and 1792.
    spec = HUB["efficientnetv2_s"].spec
    assert spec.stages[-1].out_filters == 256
    assert spec.head_filters == 1280


@pytest.mark.parametrize("name", [*V2, "efficientnet_es", "efficientnet_em", "efficientnet_el"])
def test_fused_blocks_have_no_squeeze_excite(name: str) -> None:
    fused = [block for block in blocks(HUB[name].spec) if block.kind in ("fused", "conv")]
    assert fused
    assert not any(block.se_filters for block in fused)


@pytest.mark.parametrize("name", V2)
def test_all_mbconv_blocks_of_v2_have_squeeze_excite(name: str) -> None:
    mbconv = [block for block in blocks(HUB[name].spec) if block.kind == "mbconv"]
    assert mbconv
    assert all(block.se_filters for block in mbconv)


def test_the_original_fifth_column_is_inverted() -> None:
    # It says SE there, fused here: the first three stages of every V2 are fused, the others are not.
    for name in V2:
        fused = [stage.fused for stage in HUB[name].spec.stages]
        assert fused == [True] * 3 + [False] * (len(fused) - 3)


def test_the_stem_of_l_and_xl_has_32_filters() -> None:
    stems = {name: HUB[f"efficientnetv2_{name}"].spec.stem_filters for name in ("s", "m", "l", "xl")}
    assert stems == {"s": 24, "m": 24, "l": 32, "xl": 32}


@pytest.mark.parametrize("name", V2)
def test_a_fused_row_without_expansion_is_one_convolution(name: str) -> None:
    spec = HUB[name].spec
    assert spec.stages[0].expand == 1
    assert {block.kind for block in spec.blocks()[0]} == {"conv"}


def test_one_convolution_is_one_3x3_convolution_with_activation() -> None:
    network: Any = effnet_zoo.create_model("efficientnetv2_b1")
    block = network.blocks[0][0]
    convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    assert [(conv.kernel_size, conv.groups) for conv in convolutions] == [((3, 3), 1)]
    assert not block.skip  # 32 filters come in, 16 go out: what comes out is the activation itself
    assert recorded(block, [])["output"].min() >= LOWEST_SILU


@pytest.mark.parametrize("model", list(HUB.values()), ids=list(HUB))
def test_numerics_are_tensorflow_s(model: Model) -> None:
    # Symmetric padding and an epsilon of 1e-5 are PyTorch's defaults and cost accuracy with these weights.
    assert (model.spec.padding, model.spec.bn_eps, model.spec.bn_momentum) == ("same", 1e-3, 0.01)


@pytest.mark.parametrize("model", list(HUB.values()), ids=list(HUB))
def test_there_is_stochastic_depth(model: Model) -> None:
    rates = [block.drop_path for block in blocks(model.spec)]
    assert model.spec.drop_path_rate == 0.2
    assert rates[0] == 0
    assert rates == sorted(set(rates))
    assert rates[-1] == pytest.approx(0.2 * (len(rates) - 1) / len(rates))


def test_each_family_has_its_activation() -> None:
    activations = {
        "efficientnet_b0": "silu",
        "efficientnet_l2": "silu",
        "efficientnet_lite0": "relu6",
        "efficientnet_es": "relu",
        "efficientnetv2_s": "silu",
        "efficientnetv2_b3": "silu",
    }
    assert {name: HUB[name].spec.activation for name in activations} == activations


def test_lite_and_edgetpu_have_no_squeeze_excite() -> None:
    for name in set(HUB) - set(SQUEEZED):
        assert not any(block.se_filters for block in blocks(HUB[name].spec))
