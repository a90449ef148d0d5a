"""Weight files and training checkpoints: which tensors are taken, and how they are read."""

import datetime
import io
import os
import re
import struct
import tarfile
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from effnet_zoo.checkpoints import statefile
from effnet_zoo.checkpoints.statefile import unwrap
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keytable import State
from tests.checkpoints.states import EMA, KEYS, RAW, SEVEN, value_of, weights

# What a file holds; which weights are wanted, and with --no-ema; and what is said of the choice.
WRAPPINGS: dict[str, tuple[Any, float, float, str]] = {
    "bare": (weights(RAW), RAW, RAW, ""),
    "state_dict": ({"state_dict": weights(RAW), "epoch": 3}, RAW, RAW, "took 'state_dict'"),
    "model": ({"model": weights(RAW)}, RAW, RAW, "took 'model'"),
    "any name": ({"my_weights": weights(RAW), "lr": 0.1}, RAW, RAW, "took 'my_weights'"),
    "timm": (
        {"arch": "b0", "state_dict": weights(RAW), "state_dict_ema": weights(EMA), "args": Namespace(lr=0.1, gp=None)},
        EMA,
        RAW,
        "took 'state_dict_ema' (moving average), not 'state_dict'",
    ),
    "model_ema": ({"model": weights(RAW), "model_ema": weights(EMA)}, EMA, RAW, "took 'model_ema' (moving average)"),
    "ema": ({"ema": weights(EMA), "net": weights(RAW)}, EMA, RAW, "took 'ema' (moving average), not 'net'"),
    "average alone": ({"state_dict_ema": weights(EMA)}, EMA, EMA, "took 'state_dict_ema' (moving average)"),
    "nested": (
        {"checkpoint": {"model": {"state_dict": weights(RAW)}}},
        RAW,
        RAW,
        "took 'checkpoint.model.state_dict'",
    ),
    "nested average": (
        {"state": {"model": weights(RAW), "model_ema": {"module": weights(EMA), "updates": 5}}},
        EMA,
        RAW,
        "took 'state.model_ema.module' (moving average), not 'state.model'",
    ),
    "beside an optimizer": (
        {"model": weights(RAW), "optimizer": {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(4)}}}},
        RAW,
        RAW,
        "took 'model'",
    ),
    "one of other networks": (
        {"backbone": weights(RAW), "head": {"weight": torch.ones(2, 2)}},
        RAW,
        RAW,
        "took 'backbone'",
    ),
    "the same twice": (dict.fromkeys(("model", "state_dict"), weights(RAW)), RAW, RAW, "took 'model'"),
    "Lightning": (
        {
            "state_dict": weights(RAW, "model."),
            "pytorch-lightning_version": "2.4.0",
            "hyper_parameters": {"lr": 0.1},
            "callbacks": {"EarlyStopping": {"wait_count": 0, "best_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {}}],
        },
        RAW,
        RAW,
        "took 'state_dict'; stripped 'model.'",
    ),
    "Lightning with an average": (
        {
            "state_dict": {
                **weights(RAW, "model."),
                **weights(EMA, "ema_model.module."),
                "ema_model.n_averaged": SEVEN,
            }
        },
        EMA,
        RAW,
        "took 'state_dict'; stripped 'ema_model.module.' (moving average), not 'model.'",
    ),
    "an average in bare keys": ({**weights(RAW), **weights(EMA, "ema.")}, EMA, RAW, "stripped 'ema.' (moving average)"),
    "an average inside": (
        {**weights(RAW, "net."), **weights(EMA, "net.ema.")},
        EMA,
        RAW,
        "stripped 'net.ema.' (moving average), not 'net.'",
    ),
    "torch's AveragedModel": (
        {**weights(EMA, "module."), "n_averaged": SEVEN},
        EMA,
        EMA,
        "stripped 'module.'",
    ),
    **{
        prefix: (weights(RAW, prefix), RAW, RAW, f"stripped {prefix!r}")
        for prefix in (
            "module.",
            "model.",
            "backbone.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model.backbone.",
            "model.module._orig_mod.encoder.",
            "remapped.",  # which holds the letters of ema, and no average
        )
    },
}


@pytest.mark.parametrize(("content", "wanted", "raw", "said"), WRAPPINGS.values(), ids=WRAPPINGS)
def test_weights_come_out_of_every_wrapping(tmp_path: Path, content: Any, wanted: float, raw: float, said: str) -> None:
    torch.save(content, tmp_path / "last.pth.tar")
    found = statefile.read_weights(tmp_path / "last.pth.tar")
    assert value_of(found) == wanted
    assert "; ".join(found.notes).startswith(said)
    assert value_of(statefile.read_weights(tmp_path / "last.pth.tar", ema=False)) == raw


@pytest.mark.parametrize(("content", "wanted", "raw", "said"), WRAPPINGS.values(), ids=WRAPPINGS)
def test_every_key_is_taken_once_or_named_as_left_out(content: Any, wanted: float, raw: float, said: str) -> None:
    for ema in (True, False):
        found = unwrap(content, "a file", ema=ema)
        flat = content
        for name in re.findall(r"took '([^']+)'", "; ".join(found.notes)):
            for part in name.split("."):
                flat = flat[part]
        prefix = (re.findall(r"stripped '([^']+)'", "; ".join(found.notes)) or [""])[0]
        assert sorted([*(prefix + key for key in found.state), *found.dropped]) == sorted(flat)


def test_what_is_left_out_has_a_reason() -> None:
    content = {**weights(EMA, "ema_model.module."), **weights(RAW, "model."), "ema_model.n_averaged": SEVEN}
    dropped = unwrap(content, "a file").dropped
    assert dropped["ema_model.n_averaged"] == "a counter of torch's AveragedModel"
    assert {dropped[key] for key in weights(RAW, "model.")} == {"under 'model.'"}


def test_what_else_is_in_a_file_stays_for_the_loader_to_refuse() -> None:
    found = unwrap({**weights(RAW, "model."), "criterion.weight": torch.ones(3)}, "a file")
    assert tuple(found.state) == (*KEYS, "criterion.weight")
    assert not found.dropped


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "stem",
    ["conv_stem.weight", "_conv_stem.weight", "features.0.0.weight", "efficientnet.embeddings.convolution.weight"],
)
def test_prefixes_are_found_in_every_layout(prefix: str, stem: str) -> None:
    assert list(unwrap({prefix + stem: SEVEN, prefix + "x": SEVEN}, "a file").state) == [stem, "x"]


@pytest.mark.parametrize(
    ("content", "ema", "message"),
    [
        ({"student": weights(1), "teacher": weights(2)}, True, "several state dicts ('student', 'teacher')"),
        ({"model": weights(1), "state_dict": weights(2)}, True, "several state dicts ('model', 'state_dict')"),
        (
            {"model_ema": weights(1), "ema": weights(2), "net": weights(3)},
            True,
            "several state dicts ('model_ema', 'ema', 'net')",
        ),
        (
            {"student": weights(1), "teacher": weights(2), "ema": weights(3)},
            False,
            "several state dicts ('student', 'teacher', 'ema')",
        ),
        ({**weights(1, "student."), **weights(2, "teacher.")}, True, "several models ('student.', 'teacher.')"),
        ({**weights(1), **weights(2, "teacher.")}, True, "several models ('', 'teacher.')"),
        ({"a": {"weight": torch.ones(1)}, "b": {"weight": torch.ones(1)}}, True, "several state dicts ('a', 'b')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_ambiguous_file_is_an_error_that_asks(content: Any, ema: bool, message: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(f"a file holds {message}: expected one, or one of them")):
        unwrap(content, "a file", ema=ema)


def test_two_tensors_that_would_have_one_name_are_an_error() -> None:
    for content in ({**weights(1, "model."), "bn1.weight": SEVEN}, {"bn1.weight": SEVEN, **weights(1, "model.")}):
        with pytest.raises(WeightsError, match="a file has both 'model.bn1.weight' and 'bn1.weight'"):
            unwrap(content, "a file")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)], torch.ones(1), {"model": {}}, {1: SEVEN}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x.pth: expected a flat dict of tensors, a state_dict, or a checkpoint"):
        statefile.read_weights(tmp_path / "x.pth")


# How files are read.


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".tar", ""])
def test_the_content_and_not_the_suffix_says_what_a_file_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for write in (
        lambda: torch.save(weights(RAW), path),
        lambda: torch.save(weights(RAW), path, _use_new_zipfile_serialization=False),
        lambda: save_file(weights(RAW), path),
    ):
        write()
        assert value_of(statefile.read_weights(path)) == RAW


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_dtypes_and_views_stay_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    torch.save({"conv_stem.weight": whole.T, "x": whole[1:3], "scalar": whole[0, 1]}, tmp_path / "x.pth")
    state = statefile.read_weights(tmp_path / "x.pth").state
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    assert torch.equal(state["conv_stem.weight"], whole.T)
    assert torch.equal(state["x"], whole[1:3])
    assert torch.equal(state["scalar"], whole[0, 1])


def test_parameters_are_tensors(tmp_path: Path) -> None:
    torch.save({key: nn.Parameter(tensor) for key, tensor in weights(RAW).items()}, tmp_path / "x.pth")
    assert value_of(statefile.read_weights(tmp_path / "x.pth")) == RAW


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a missing file", "there is no such file or folder"),
        ("a folder", "expected a file, found a folder"),
        ("a FIFO", "expected a regular file, found a FIFO"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, what: str, message: str) -> None:
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a FIFO")
    with pytest.raises(WeightsError, match=f"{what}: {message}: expected a weight file"):
        statefile.read_weights(tmp_path / what)


STRANGE: dict[str, Any] = {
    "a number of numpy": np.float64(81.5),
    "an array of numpy": np.arange(5),
    "numpy's generator": np.random.get_state(),
    "a path": Path("/data/run"),
    "a path of Windows": PureWindowsPath("C:/data"),
    "a default": defaultdict(list, {"acc1": [1.0]}),
    "a time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "a date": datetime.date(2026, 1, 1),
    "a duration": datetime.timedelta(hours=3),
    "counts": Counter("abc"),
    "sets": [{1, 2}, frozenset((1, 2)), frozenset()],
    "a complex number": 1 + 2j,
    "torch's own": [torch.Size((1, 2)), torch.float16, torch.device("cuda:0"), torch.get_rng_state()],
    "bytes": [b"", b"abc", bytearray(b"abc")],
    "numbers": [2**70, -5, 1.5, None, True],
    "keys of any kind": {(1, 2): 3, None: 4, Path("x"): 5},
    "a namespace": Namespace(out=Path("out")),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_lies_beside_the_weights_of_a_training_checkpoint_does_not_matter(
    tmp_path: Path, protocol: int, zipped: bool
) -> None:
    for name, value in STRANGE.items():
        content = {"state_dict": weights(RAW), name: value}
        torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        assert value_of(statefile.read_weights(tmp_path / "x.pth")) == RAW, name


DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64")
NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_bit_for_bit_those_that_torch_reads(tmp_path: Path, protocol: int, zipped: bool) -> None:
    whole, noted = torch.randn(10, 20), torch.ones(3)
    noted.my_attribute = 5  # type: ignore[attr-defined]
    state: State = {
        name: torch.arange(12).reshape(3, 4).to(getattr(torch, name)) for name in DTYPES + NEW_DTYPES * zipped
    }
    state |= {"whole": whole, "turned": whole.T, "part": whole[2:5, ::3], "scalar": whole[3, 4], "no rows": whole[:0]}
    state |= {"nothing": torch.empty(0), "overlapping": whole.as_strided((3, 3), (1, 1), 5), "noted": noted}
    state |= {"parameter": nn.Parameter(torch.randn(2)), "channels last": whole[None, None].repeat(2, 3, 1, 1)}
    state["channels last"] = state["channels last"].contiguous(memory_format=torch.channels_last)
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    torch.save(ordered, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = statefile.read_weights(tmp_path / "x.pth").state
    expected = torch.load(tmp_path / "x.pth", weights_only=False)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        ours = found[key]
        assert (ours.dtype, ours.shape, ours.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), key
        assert ours.storage_offset() == tensor.storage_offset(), key
        assert bytes(ours.untyped_storage()) == bytes(tensor.detach().untyped_storage()), key
    assert found["whole"].untyped_storage().data_ptr() == found["turned"].untyped_storage().data_ptr()


def test_a_file_without_checksums_is_read_and_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    torch.save(weights(RAW), tmp_path / "x.pth")
    content = bytearray((tmp_path / "x.pth").read_bytes())
    content[content.index(struct.pack("<f", RAW) * 3)] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"it is damaged: Bad CRC-32 for file 'x/data/0'"):
        statefile.read_weights(tmp_path / "x.pth")
    checked = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(weights(RAW), tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(checked)
    assert value_of(statefile.read_weights(tmp_path / "x.pth")) == RAW


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_a_machine_of_the_other_byte_order_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(weights(RAW), path, _use_new_zipfile_serialization=zipped)
    if zipped:
        entries = {"x/byteorder": b"big"}
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                target.writestr(name, entries.get(name, source.read(name)))
    else:
        path.write_bytes(path.read_bytes().replace(b"little_endian\x71\x02\x88", b"little_endian\x71\x02\x89"))
    with pytest.raises(WeightsError, match="its tensors are 'big' endian, expected little"):
        statefile.read_weights(path)


def test_a_tar_of_the_first_torch_is_refused_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(WeightsError, match="a tar archive, as torch wrote until 2017: load it with torch"):
        statefile.read_weights(tmp_path / "x.pth")
