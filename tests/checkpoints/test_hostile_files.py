"""Files that are damaged, or made to run code or to fill the memory."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from effnet_zoo.checkpoints import statefile
from effnet_zoo.errors import WeightsError
from tests.checkpoints.states import RAW, weights

# Nothing is run.


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def attacks(trap: Path) -> dict[str, Any]:
    touch = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    return {
        "touch": Calls(Path.touch, trap),
        "system": Calls(os.system, f"touch {trap}"),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "torch": Calls(torch.save, {}, str(trap)),
        "import": Calls(__import__, "antigravity"),
        "getattr": Calls(getattr, trap, "touch"),
        "inside an allowed class": Namespace(x=Calls(eval, touch)),
        "nested": {"model": OrderedDict(weight=[Calls(eval, touch)])},
    }


@pytest.mark.parametrize("attack", attacks(Path()))
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, attack: str, how: str) -> None:
    trap, path = tmp_path / "ran", tmp_path / "weights.safetensors"
    content = {**weights(RAW), "x": attacks(trap)[attack]}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(WeightsError, match=r"weights.safetensors is neither .* nor one of plain tensors") as refused:
        statefile.read_weights(path)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)  # torch's advice is to switch that off
    assert not trap.exists()
    assert "antigravity" not in sys.modules


def test_the_attacks_do_run_where_code_is_run(tmp_path: Path) -> None:
    """What the test above would miss if they did not."""
    trap = tmp_path / "ran"
    for attack in ("touch", "system", "eval", "exec", "inside an allowed class", "nested"):
        pickle.loads(pickle.dumps(attacks(trap)[attack]))
        assert trap.exists(), attack
        trap.unlink()


def test_a_whole_pickled_model_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "model.pth")
    with pytest.raises(
        WeightsError, match=r"it asks for torch.nn.modules.container.Sequential; .*its state_dict alone"
    ):
        statefile.read_weights(tmp_path / "model.pth")


# Damaged files, and files made to fill the memory.


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS: dict[str, bytes] = {
    "half a length": b"\x08\x00\x00\x00",
    "half a header": header({"a": tensor([1], 0, 4)}, b"1234")[:20],
    "less data": header({"a": tensor([2], 0, 8)}, b"1234"),
    "more data": header({"a": tensor([1], 0, 4)}, b"12345678"),
    "an endless header": struct.pack("<Q", 2**63) + b"{}",
    "a longer header than file": struct.pack("<Q", 10**8) + b"{}" * 100,
    "no JSON": struct.pack("<Q", 4) + b"{{{{" + b"1234",
    "deep JSON": struct.pack("<Q", 10**6) + b"{" + b'"a":{' * (10**6 // 5),
    "an endless tensor": header({"a": tensor([2**40], 0, 2**42)}),
    "an endless shape": header({"a": tensor([2**40, 2**40], 0, 4)}, b"1234"),
    "a negative shape": header({"a": tensor([-1], 0, 4)}, b"1234"),
    "the same bytes twice": header({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"1234"),
    "bytes of another dtype": header({"a": tensor([1], 0, 4, "F64")}, b"1234"),
    "an unknown dtype": header({"a": tensor([1], 0, 4, "F31")}, b"1234"),
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_damaged_safetensors_are_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x.safetensors is (not|neither) a whole safetensors file") as refused:
        statefile.read_weights(tmp_path / "x.safetensors")
    assert "\n" not in str(refused.value)


def pickled(content: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    content = save(weights(RAW)) if kind == "safetensors" else pickled(weights(RAW), legacy=kind == "legacy")
    (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"cut is (not|neither) a whole safetensors file") as refused:
        statefile.read_weights(tmp_path / "cut")
    assert "\n" not in str(refused.value)


def rezipped(content: bytes, compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return buffer.getvalue()


def test_a_checkpoint_that_was_packed_again_is_refused_rather_than_read_as_noise(tmp_path: Path) -> None:
    """Noise does not shrink, so its size does not give it away; mapped, the packed bytes would be the weights."""
    noise = {"conv_stem.weight": torch.randint(2**31 - 1, (64, 3, 9, 9), dtype=torch.int32).view(torch.float32)}
    packed = rezipped(pickled(noise), zipfile.ZIP_DEFLATED)
    (tmp_path / "packed.pth").write_bytes(packed)
    with pytest.raises(WeightsError, match=r"packed.pth is neither .*: it is compressed, as torch.save never does"):
        statefile.read_weights(tmp_path / "packed.pth")
    (tmp_path / "stored.pth").write_bytes(rezipped(pickled(noise), zipfile.ZIP_STORED))
    stored = statefile.read_weights(tmp_path / "stored.pth").state["conv_stem.weight"]
    assert torch.equal(stored.view(torch.int32), noise["conv_stem.weight"].view(torch.int32))


def zip_bomb(megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        with archive.open("archive/data.pkl", "w") as entry:
            for _ in range(megabytes):
                entry.write(bytes(2**20))
    return buffer.getvalue()


def lying_zip_bomb(megabytes: int) -> bytes:
    """The same, whose directory says that nothing is in it."""
    content = bytearray(zip_bomb(megabytes))
    start = content.rindex(b"archive/data.pkl") - 46
    assert content[start : start + 4] == b"PK\x01\x02"
    content[start + 24 : start + 28] = struct.pack("<I", 10)  # the uncompressed size
    return bytes(content)


class LegacyPickler(pickle.Pickler):
    """As torch pickled before it zipped: storages by name, their sizes said in the pickle."""

    def persistent_id(self, item: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", item[1], None) if item == ("storage", 10**11) else None


def legacy_bomb() -> bytes:
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(part, buffer, protocol=2)
    rebuild = Calls(torch._utils._rebuild_tensor_v2, ("storage", 10**11), 0, (10**11,), (1,), False, OrderedDict())
    LegacyPickler(buffer, protocol=2).dump({"conv_stem.weight": rebuild})
    pickle.dump(["0"], buffer, protocol=2)
    return buffer.getvalue()


def many_references() -> bytes:
    """1000 entries that are one dict of 1000 entries that are one dict ...: few bytes, and endless to walk through."""
    content: dict[str, Any] = {"conv_stem.weight": torch.ones(1)}
    for _ in range(6):
        content = {str(number): content for number in range(1000)}
    return pickled(content)


def deep() -> bytes:
    levels = 100_000
    return b"\x80\x02" + b"}X\x01\x00\x00\x00a" * levels + b"}" + b"s" * levels + b"."


def zipped(program: bytes) -> bytes:
    """A file of ``torch.save`` with a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", bytes(2**20))
    return buffer.getvalue()


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


STORAGE = b"(X\x07\x00\x00\x00storage" + global_("torch", "ByteStorage") + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
STORAGE += b"J\x00\x00\x10\x00tQ"
"""A mebibyte, as a pickle asks for it."""

# Beside dates, paths and the like, calls to what a table allows: none may take memory that the file does not have.
PROGRAMS: dict[str, bytes] = {
    "bytearray": global_("builtins", "bytearray") + b"\x8a\x05\x00\x00\x00\x00\x02\x85R.",
    "an empty bytearray of 8 GB": b"\x96" + struct.pack("<Q", 2**33) + b".",
    "a text of 8 GB": b"\x8d" + struct.pack("<Q", 2**33) + b".",
    "bytes of 2 GB": b"B" + struct.pack("<I", 2**31) + b".",
    "a number of 2 GB": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "a frame of 8 GB": b"\x95" + struct.pack("<Q", 2**33) + b".",
    "a distant memo": b"]r\xff\xff\xff\xff.",
    "many lists": b"]\x94" * 2**19 + b".",
    "one list in many": b"]q\x00(" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(100)) + b"t.",
    "a key that is endless to hash": b"(Nq\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"}h\x00Nst.",
    "one long list into many dicts": b"(]q\x01("
    + b"".join(b"M%sN\x86" % struct.pack("<H", i) for i in range(2**16))
    + b"e"
    + (global_("collections", "OrderedDict") + b"h\x01\x85R") * 2**13
    + b"t.",
    "a name that is endless to write": b"(]q\x00" + b"](h\x00h\x00eq\x00" * 200 + b"X\x01\x00\x00\x00x\x93t.",
    "a call of what is endless to write": b"(]q\x00" + b"](h\x00h\x00eq\x00" * 200 + b")Rt.",
    "a size of a text": b"(X"
    + struct.pack("<I", 2**20)
    + b"x" * 2**20
    + b"q\x00"
    + (global_("torch", "Size") + b"h\x00\x85R") * 2**12
    + b"t.",
    "a shape of a text": global_("torch._utils", "_rebuild_tensor")
    + b"("
    + STORAGE
    + b"K\x00X\x02\x00\x00\x00xxX\x02\x00\x00\x00xxtR.",
    "a storage many times": b"(" + STORAGE * 2**12 + b"t.",
    "a deep tuple": b"N" + b"\x85" * 2**18 + b".",
    "a shape without end": global_("torch._utils", "_rebuild_tensor")
    + b"("
    + STORAGE
    + b"K\x00"
    + b"\x8a\x05\x00\x00\x00\x00\x01\x8a\x05\x00\x00\x00\x00\x01\x86K\x00K\x00\x86tR.",
}


def endless_keys() -> bytes:
    """A file of the older format whose storages have names that are endless to sort."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts: tuple[Any, ...] = (0x1950A86A20F9469CFC6C, 1001, system, {})
    keys = (b"]q\x00" + b"](h\x00h\x00eq\x00" * 60) * 2
    return b"".join(pickle.dumps(part, protocol=2) for part in parts) + b"\x80\x02](" + keys + b"e."


BOMBS: dict[str, Callable[[], bytes]] = {
    "keys that are endless to sort": endless_keys,
    "a zip of zeros": lambda: zip_bomb(512),
    "a zip of zeros that lies": lambda: lying_zip_bomb(512),
    "strides of 0": lambda: pickled({"conv_stem.weight": torch.zeros(1).expand(10**12)}),
    "a call for memory": lambda: pickled({"conv_stem.weight": Calls(torch.FloatTensor, 2 * 10**8)}),
    "a legacy storage": legacy_bomb,
    "many references": many_references,
    "a deep dict": deep,
    "no device": lambda: pickled({"conv_stem.weight": torch.ones(10**9, device="meta")}),
    "an endless header": lambda: SAFETENSORS["an endless header"],
    "an endless tensor": lambda: SAFETENSORS["an endless tensor"],
    "deep JSON": lambda: SAFETENSORS["deep JSON"],
    **{name: partial(zipped, b"\x80\x02" + program) for name, program in PROGRAMS.items()},
}

PROBE = """
import resource, sys, time
from pathlib import Path
from effnet_zoo.checkpoints import statefile
from effnet_zoo.errors import WeightsError

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30),) * 2)

for path in sorted(Path(sys.argv[1]).iterdir()):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        statefile.read_weights(path)
        said = "was read"
    except WeightsError as error:
        said = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(path.name, grown // 1024, int(time.monotonic() - start), repr(said), sep="|")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the largest resident size is in other units elsewhere")
def test_files_made_to_fill_the_memory_are_refused_without_filling_it(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
        assert (tmp_path / name).stat().st_size < 5 * 2**20, name
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split("|") for line in result.stdout.splitlines()]
    assert [name for name, *_ in rows] == sorted(BOMBS)
    for name, megabytes, seconds, said in rows:
        assert said != repr("was read"), name
        assert "\\n" not in said, name
        assert int(megabytes) < 100, f"{name}: {megabytes} MB more"
        assert int(seconds) < 20, f"{name}: {seconds} s"


@pytest.mark.parametrize(
    ("hollow", "message"),
    [
        (torch.zeros(1).expand(10_000), r"x.pth: conv_stem.weight has the shape \(10000,\), but its values"),
        (torch.ones(3, device="meta"), r"x.pth: conv_stem.weight has the shape \(3,\), but its values"),
    ],
    ids=["strides of 0", "no device"],
)
def test_a_tensor_whose_values_are_not_in_the_file_is_refused(tmp_path: Path, hollow: Tensor, message: str) -> None:
    torch.save({"conv_stem.weight": hollow}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message):
        statefile.read_weights(tmp_path / "x.pth")


def test_a_tensor_without_values_that_is_no_weight_is_no_hindrance(tmp_path: Path) -> None:
    weights = {"conv_stem.weight": torch.ones(3)}
    torch.save({"state_dict": weights, "teacher": {"m": torch.ones(3, device="meta")}}, tmp_path / "x.pth")
    assert statefile.read_weights(tmp_path / "x.pth").state.keys() == weights.keys()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"conv_stem.weight": torch.eye(3).to_sparse()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"it asks for torch._utils._rebuild_sparse_tensor"):
        statefile.read_weights(tmp_path / "x.pth")
