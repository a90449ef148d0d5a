"""A layout is one description in the table: everything that reads, tells and converts weights then knows it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from effnet_zoo import EfficientNet, convert
from effnet_zoo.checkpoints import statefile
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.identify import identify
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.layouts.layout import Layout, NetworkDescription, Reference, archs_named
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import Preprocessing
from tests.parity import common
from tests.shell import Run
from tests.transfer.states import write

NAME = "effnet_zoo_lite0"
OURS = LAYOUTS["effnet_zoo"].table
TABLE = KeyTable(
    name="french",
    network=("tige", "norme", "tete", "norme_tete", "classes"),
    block="bloc_{index}.",
    blocks=OURS.blocks,
)
PREPROCESSING = Preprocessing(
    size=(224, 224), crop_pct=0.9, crop_mode="center", interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
)


class French(nn.Module):
    """Another library's network: ours under other names."""

    def __init__(self, network: NetworkDescription) -> None:
        super().__init__()
        self.network = EfficientNet(network.arch, num_classes=network.num_classes, in_chans=network.in_chans)

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], strict: bool = True, assign: bool = False) -> None:  # type: ignore[override]
        self.network.load_state_dict(TABLE.to_ours(state_dict, self.network.arch), strict=strict)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


FRENCH = Layout(
    table=TABLE,
    archs=archs_named(NAME),
    convention="as a test says",
    loads_with="french.load('DIR')",
    aliases=("francais",),
    preprocessing=lambda _: PREPROCESSING,
    reference=lambda network: Reference(distribution="torch", module=French(network)),
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weight file of the new layout, inside a training script's wrappers."""
    monkeypatch.setitem(LAYOUTS, FRENCH.name, FRENCH)
    arch = catalogue.models()[NAME].spec
    model = common.drawn(lambda: EfficientNet(arch, num_classes=5), seed=1)
    state = {f"module.{key}": value.contiguous() for key, value in TABLE.to_theirs(model.state_dict(), arch).items()}
    return write(tmp_path / "french.safetensors", state)


def test_its_stem_is_found_behind_a_prefix_and_it_is_identified(file: Path) -> None:
    state = statefile.read_weights(file).state
    assert FRENCH.stem_key == "tige.weight"
    found = identify(state, "a file")
    assert (found.layout, found.name, found.num_classes, found.in_chans) == (FRENCH, NAME, 5, 3)


def test_it_is_inspected_with_its_conventions(run: Run, file: Path) -> None:
    said = json.loads(run("inspect", file, "--json")[1])
    assert (said["layout"], said["variant"], said["assumed"]) == ("french", NAME, ["as a test says"])
    assert said["preprocessing"]["std"] == [0.25] * 3


def test_it_is_converted_there_and_back_and_proven_by_its_own_implementation(file: Path, tmp_path: Path) -> None:
    ours = convert(str(file), tmp_path / "ours")
    assert ours.proof is not None
    assert ours.proof.against.startswith("torch ")
    assert "timm" in ours.proof.against
    back = convert(str(tmp_path / "ours"), tmp_path / "back", to="francais")
    assert back.target == "french"
    written = statefile.read_weights(tmp_path / "back" / "model.safetensors").state
    expected = statefile.read_weights(file).state
    assert list(written) == list(expected)
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_stem_is_the_first_key_of_every_network(layout: Layout) -> None:
    for arch in layout.archs.values():
        assert next(theirs for theirs, _ in layout.table.keys(arch).values()) == layout.stem_key


def test_a_network_is_built_once_to_tell_it_and_once_to_prove_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    init = EfficientNet.__init__

    def counted(self: EfficientNet, *args: object, **options: object) -> None:
        built.append(options.get("device"))
        init(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setitem(LAYOUTS, "french", dataclasses.replace(FRENCH, reference=lambda _: None))
    monkeypatch.setattr(EfficientNet, "__init__", counted)
    convert(str(file), tmp_path / "ours")
    assert built == ["meta", "meta"], "shapes alone both times: the second gets the file's own tensors"
