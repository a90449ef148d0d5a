"""Against the network of the one-file PyTorch port of EfficientNetV2, written anew here from what it computes.

The port (github.com/d-li14/efficientnetv2.pytorch) is no package to install. `Port` has its keys and its arithmetic:
one list of stem and blocks, squeeze-excite as linear layers, symmetric padding, and PyTorch's epsilon.
"""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.loading import LoadReport, load_state
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.identify import identify
from effnet_zoo.numerics import shallow
from effnet_zoo.transfer.conversion import Images, with_overrides
from effnet_zoo.transfer.opening import open_package
from tests.parity import common

LAYOUT = LAYOUTS["effnetv2_port"]
Row = tuple[int, int, int, int, int]
Pair = tuple[EfficientNet, nn.Module]

# Expansion, filters, repeats, stride, squeeze-excite: the fifth column is the inverse of this package's.
S: tuple[Row, ...] = (
    (1, 24, 2, 1, 0),
    (4, 48, 4, 2, 0),
    (4, 64, 4, 2, 0),
    (4, 128, 6, 2, 1),
    (6, 160, 9, 1, 1),
    (6, 256, 15, 2, 1),
)
M: tuple[Row, ...] = (
    (1, 24, 3, 1, 0),
    (4, 48, 5, 2, 0),
    (4, 80, 5, 2, 0),
    (4, 160, 7, 2, 1),
    (6, 176, 14, 1, 1),
    (6, 304, 18, 2, 1),
    (6, 512, 5, 1, 1),
)
L: tuple[Row, ...] = (
    (1, 32, 4, 1, 0),
    (4, 64, 7, 2, 0),
    (4, 96, 7, 2, 0),
    (4, 192, 10, 2, 1),
    (6, 224, 19, 1, 1),
    (6, 384, 25, 2, 1),
    (6, 640, 7, 1, 1),
)
XL: tuple[Row, ...] = (
    (1, 32, 4, 1, 0),
    (4, 64, 8, 2, 0),
    (4, 96, 8, 2, 0),
    (4, 192, 16, 2, 1),
    (6, 256, 24, 1, 1),
    (6, 512, 32, 2, 1),
    (6, 640, 8, 1, 1),
)
MODELS = {
    "effnetv2_port_s_272": (*S[:-1], (6, 272, 15, 2, 1)),
    "effnetv2_port_s": S,
    "effnetv2_port_m": M,
    "effnetv2_port_l": L,
    "effnetv2_port_xl": XL,
}
WHOLE = ("effnetv2_port_s_272", "effnetv2_port_s")
REDUCED = tuple(name for name in MODELS if name not in WHOLE)


def squeezed(inputs: int) -> int:
    """A quarter of the block's input to the nearest multiple of 8, the next one where that loses more than a tenth."""
    quarter = inputs // 4
    nearest = max(8, (quarter + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * quarter else nearest + 8


class PortSqueeze(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        width = squeezed(inputs)
        self.fc = nn.Sequential(nn.Linear(hidden, width), nn.SiLU(), nn.Linear(width, hidden), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class PortBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, *, squeeze: bool) -> None:
        super().__init__()
        hidden = inputs * expand
        self.adds = stride == 1 and inputs == outputs
        if squeeze:
            body: list[nn.Module] = [
                nn.Conv2d(inputs, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.SiLU(),
                nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
                nn.BatchNorm2d(hidden),
                nn.SiLU(),
                PortSqueeze(inputs, hidden),
            ]
        else:
            body = [nn.Conv2d(inputs, hidden, 3, stride, 1, bias=False), nn.BatchNorm2d(hidden), nn.SiLU()]
        self.conv = nn.Sequential(*body, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class Port(nn.Module):
    def __init__(self, rows: tuple[Row, ...], *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        filters, head = 24, 1792
        stem = nn.Sequential(nn.Conv2d(in_chans, filters, 3, 2, 1, bias=False), nn.BatchNorm2d(filters), nn.SiLU())
        layers: list[nn.Module] = [stem]
        for expand, outputs, repeats, first_stride, squeeze in rows:
            for number in range(repeats):
                stride = 1 if number else first_stride
                layers.append(PortBlock(filters, outputs, stride, expand, squeeze=bool(squeeze)))
                filters = outputs
        self.features = nn.Sequential(*layers)
        self.conv = nn.Sequential(nn.Conv2d(filters, head, 1, bias=False), nn.BatchNorm2d(head), nn.SiLU())
        self.classifier = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


def drawn(rows: tuple[Row, ...]) -> nn.Module:
    """The port with drawn weights, those that end a residual branch small.

    Otherwise each of 40 blocks adds to the next one's input until squeeze-excite's sigmoids are steps: they then turn
    float32's rounding, which differs between a linear layer and a convolution, into other logits.
    """
    model: nn.Module = common.drawn(lambda: Port(rows))
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, PortBlock) and block.adds:
                block.conv[-1].get_parameter("weight").mul_(0.1)
    return model


def reduced(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple((t, c, min(n, common.KEPT), s, se) for t, c, n, s, se in rows)


def test_no_network_is_left_out() -> None:
    assert set(LAYOUT.archs) == set(MODELS)


@pytest.mark.parametrize("inputs", range(8, 801, 8))
def test_squeeze_widths_are_rounded_as_the_port_rounds(inputs: int) -> None:
    """Its own networks have none that rounding down would cut by a tenth, changed ones may."""
    plain = ArchSpec.from_rows([(4, 64, 1, 2, 0)], stem=inputs)
    ((block,),) = dataclasses.replace(plain, se_divisor=8).blocks()
    assert block.se_filters == squeezed(inputs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("num_classes", "in_chans"), [(1000, 3), (7, 4)])
def test_keys_map_both_ways(name: str, num_classes: int, in_chans: int) -> None:
    with common.unallocated():
        state = Port(MODELS[name], num_classes=num_classes, in_chans=in_chans).state_dict()
        found = identify(state, "the port's")
        expected = EfficientNet(found.arch, num_classes=num_classes, in_chans=in_chans).state_dict()
    assert (found.layout.name, found.name) == ("effnetv2_port", name)
    assert (found.num_classes, found.in_chans) == (num_classes, in_chans)
    ours = found.layout.table.to_ours(state, found.arch)
    assert [(key, tensor.shape, tensor.dtype) for key, tensor in ours.items()] == [
        (key, tensor.shape, tensor.dtype) for key, tensor in expected.items()
    ]
    back = LAYOUT.table.to_theirs(ours, found.arch)
    assert [(key, tensor.shape, tensor.dtype) for key, tensor in back.items()] == [
        (key, tensor.shape, tensor.dtype) for key, tensor in state.items()
    ]


@pytest.fixture(scope="module", params=WHOLE)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    theirs = drawn(MODELS[request.param])
    path = tmp_path_factory.mktemp("port") / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    package = with_overrides(open_package(str(path)), Images(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert package.variant == request.param
    model = package.model()
    path.unlink()
    return model, theirs


@pytest.mark.parametrize("size", common.SIZES, ids=str)
def test_logits(pair: Pair, size: common.Size) -> None:
    common.assert_logits_agree(*pair, size)


@pytest.fixture(scope="module", params=REDUCED)
def reduced_pair(request: pytest.FixtureRequest) -> Pair:
    theirs = drawn(reduced(MODELS[request.param]))
    arch = shallow(LAYOUT.archs[request.param], common.KEPT)
    with common.unallocated():
        ours = EfficientNet(arch)
    state = LAYOUT.table.to_ours(theirs.state_dict(), arch)
    load_state(ours, state, LoadReport(source="the port's state_dict"), new_head=False)
    return ours.eval(), theirs


@pytest.mark.parametrize("size", [(97, 130), common.SMALL, common.TINY], ids=str)
def test_reduced_logits(reduced_pair: Pair, size: common.Size) -> None:
    common.assert_logits_agree(*reduced_pair, size)


@pytest.mark.parametrize("name", MODELS)
def test_ours_run_in_theirs(name: str) -> None:
    arch = shallow(LAYOUT.archs[name], common.KEPT)
    ours = common.drawn(lambda: EfficientNet(arch), seed=3)
    theirs = Port(reduced(MODELS[name]))
    theirs.load_state_dict(LAYOUT.table.to_theirs(ours.state_dict(), arch), strict=True)
    common.assert_logits_agree(ours, theirs.eval(), common.TINY)
