"""Valid inputs of every kind that comes from outside, and random changes of them."""

import copy
import io
import json
import random
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors.torch import save

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints.config_json import config_text as text_of_config
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.zoo import ledger

BLOCKS = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25_noskip", "r3_k5_s2_e6_i24_o40"]
ROWS = [[1, 24, 2, 1, 1], [4, 48, 4, 2, 1], [6, 160, 9, 1, 0]]

NUMBERS = (0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e308, 1e999, float("nan"))
TEXTS = ("", " ", "nan", "1e999", "\0", "\ud800", "\x1b[2J", "ä" * 3, "x" * 10_000, "../..", "true", "[", "{", "%s")


def value(draw: random.Random, depth: int = 0) -> Any:
    """Returns any value that JSON, or Python's reader of it, can hold."""
    kinds: list[Callable[[], Any]] = [
        lambda: draw.choice(NUMBERS),
        lambda: draw.choice(TEXTS),
        lambda: draw.choice((None, True, False)),
        lambda: [value(draw, depth + 1) for _ in range(draw.randrange(4))] if depth < 3 else [],
        lambda: {draw.choice(TEXTS): value(draw, depth + 1) for _ in range(draw.randrange(3))} if depth < 3 else {},
    ]
    if draw.random() < 0.02:
        nested: Any = 0
        for _ in range(draw.choice((50, 500, 900))):
            nested = [nested]
        return nested
    return draw.choice(kinds)()


def tree(base: Any, draw: random.Random) -> Any:
    """Returns a copy of lists and dicts in which some nodes are others, gone, doubled or under another key."""
    changed = copy.deepcopy(base)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        nodes: list[tuple[Any, Any]] = []
        waiting = [changed]
        while waiting:
            node = waiting.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
            nodes += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
        if not nodes:
            return value(draw)
        node, key = draw.choice(nodes)
        match draw.randrange(5):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[draw.choice((*TEXTS, f"{key}x"))] = node.pop(key)
            case 2 if isinstance(node, list):
                node.insert(key, node[key])
            case _:
                node[key] = value(draw)
    return changed


def text(base: str, draw: random.Random) -> str:
    """Returns text in which some characters or words are others, gone or doubled."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, to = sorted(draw.randrange(len(base) + 1) for _ in range(2))
        part = draw.choice((base[at:to], draw.choice(TEXTS), str(draw.choice(NUMBERS[:7])), base[at : at + 1] * 9, ""))
        base = base[:at] + part + base[draw.choice((at, at + 1, to)) :]
        base = base[:20_000]
    return base


def binary(base: bytes, draw: random.Random) -> bytes:
    """Returns bytes some of which are others, gone, doubled, zero, or a number of extreme size."""
    content = bytearray(base)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(content) + 1)
        end = min(at + draw.choice((1, 4, 8, 64)), len(content))
        match draw.randrange(6):
            case 0:
                content[at:end] = draw.randbytes(end - at)
            case 1:
                del content[at:end]
            case 2:
                content[at:at] = content[at:end]
            case 3:
                content[at:end] = bytes(end - at)
            case 4:
                pattern = draw.choice(("<Q", "<I", ">I", ">H", "<H"))
                limit = 256 ** struct.calcsize(pattern)
                number = draw.choice((limit - 1, limit // 2, limit // 2 - 1, 1 << 30, 1 << 34, 0)) % limit
                content[at : at + struct.calcsize(pattern)] = struct.pack(pattern, number)
            case _:
                del content[at:]
    return bytes(content)


def images() -> list[bytes]:
    """Returns small images of the usual formats and modes, as files."""
    draw = numpy.random.default_rng(0)
    rgb = Image.fromarray(draw.integers(0, 256, (37, 52, 3), dtype=numpy.uint8))
    deep = Image.fromarray(draw.integers(0, 65536, (37, 52), dtype=numpy.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation
    files = []
    for image, name, options in (
        (rgb, "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 0}),
        (rgb.convert("RGBA"), "PNG", {}),
        (deep, "PNG", {}),
        (rgb, "JPEG", {"exif": turned}),
        (rgb.convert("L"), "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "WEBP", {}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "BMP", {}),
        (deep, "TIFF", {}),
        (rgb.convert("F"), "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "PPM", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        files.append(buffer.getvalue())
    return files


def weights() -> dict[str, torch.Tensor]:
    """Returns a few tensors under keys that look like a network's."""
    draw = torch.Generator().manual_seed(0)
    return {
        "conv_stem.weight": torch.randn(4, 3, 3, 3, generator=draw),
        "bn1.running_var": torch.rand(4, generator=draw),
        "bn1.num_batches_tracked": torch.tensor(7),
        "classifier.weight": torch.randn(2, 4, generator=draw).half(),
    }


def safetensors() -> bytes:
    """Returns the weights as a safetensors file."""
    return save(weights())


def pickles() -> list[bytes]:
    """Returns the weights as torch.save writes them: its archive, its format of before, another protocol, wrapped."""
    files = []
    wrapped = {"state_dict": weights(), "epoch": 3, "best": 0.5, "names": ["a", "b"]}
    for content, options in (
        (weights(), {}),
        (weights(), {"_use_new_zipfile_serialization": False}),
        (wrapped, {"pickle_protocol": 4}),
        (wrapped, {"_use_new_zipfile_serialization": False, "pickle_protocol": 4}),
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        files.append(buffer.getvalue())
    return files


def ledger_text() -> str:
    """Returns two entries of the ledger, as short as entries are."""
    whole = (ledger.FOLDER / "efficientnetv2.toml").read_text(encoding="utf-8")
    start = whole.index("\n[") + 1
    return whole[start : whole.index("\n[", whole.index("\n[", start) + 1) + 1]


def toml_of(base: str, draw: random.Random) -> str:
    """Returns a ledger file whose entries, or text, are others."""
    if draw.random() < 0.3:
        return text(base, draw)
    lines = []
    for variant, tags in tomllib.loads(base).items():
        for tag, entry in tags.items():
            changed = tree(entry, draw)
            lines.append(f"[{variant}.{tag}]")
            # Of texts, numbers and lists, TOML is what JSON is.
            lines += (
                [f"{key} = {json.dumps(item)}" for key, item in changed.items()] if isinstance(changed, dict) else []
            )
    return "\n".join(lines)


def config_text() -> str:
    """Returns the config.json of a network of one's own, with class names."""
    arch = ArchSpec.from_blocks([*BLOCKS[:1], "r2_k3_s22_e6_i16_o24_se0.25"])
    cfg = {
        "tag": "mine",
        "license": "apache-2.0",
        "input_size": [3, 224, 224],
        "test_input_size": [3, 240, 240],
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    return text_of_config(arch, ModelOptions(num_classes=2, in_chans=3), cfg, ("cat", "dog"))


def record_text() -> str:
    """Returns the record of an exported file."""
    from effnet_zoo.checkpoints.creation import create_classifier
    from effnet_zoo.runtime.deployed import metadata_of
    from effnet_zoo.runtime.metadata import Interface

    model = create_classifier("effnet_zoo_lite0", num_classes=3, device="cpu")
    return metadata_of(model, Interface(size=(224, 256), pixels="nhwc")).to_json()


def write(path: Path, content: str | bytes) -> Path:
    """Writes a mutant to a file and returns the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def json_of(base: str, draw: random.Random) -> str:
    """Returns JSON whose tree, or text, is another."""
    if draw.random() < 0.3:
        return text(base, draw)
    return json.dumps(tree(json.loads(base), draw), ensure_ascii=draw.random() < 0.5)
