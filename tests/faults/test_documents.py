"""Documents that somebody else wrote, spoilt in thousands of ways: read, or refused by an error of the package."""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from effnet_zoo import ArchSpec, create_model, documents
from effnet_zoo.checkpoints import config_json
from effnet_zoo.errors import LONGEST_MESSAGE, EffnetZooError, InputError, LedgerError, WeightsError
from effnet_zoo.zoo import ledger
from effnet_zoo.zoo.class_names import read_labels
from effnet_zoo.zoo.preprocessing import image_fields

ODD: list[Any] = [None, True, False, 0, -1, 3, 2**63, 10**400, 1e308, 0.5, "", "x", "\0", "é" * 300, [], [[]], {}]
ODD += [{"a": 1}, [1, 2, 3], ["a"], [None, {}], {"stages": 5}, {"": {"": []}}]
"""What takes the place of a value."""

DEEP = "[" * 3000 + "]" * 3000


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def retyped(document: Any, draw: random.Random) -> Any:
    """A copy in which one value is left out, is another, is there twice, or lies deeper."""
    document = copy.deepcopy(document)
    path = draw.choice([path for path in places(document) if path])
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    key, how = path[-1], draw.randrange(5)
    if how == 0:
        del holder[key]
    elif how == 1:
        holder[key] = [holder[key]]
    elif how == 2 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = draw.choice(ODD)
    return document


def flipped(text: str, draw: random.Random) -> str:
    """A copy with some characters changed, cut out, or there twice."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text))
        middle = draw.choice(["", chr(draw.randrange(256)), text[at] * 2, draw.choice('{}[]",:\n=.'), DEEP, "NaN"])
        text = text[:at] + middle + text[at + draw.randint(0, 3) :]
    return text


def json_mutants(documents: list[Any], count: int, seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    for number in range(count):
        document = draw.choice(documents)
        yield flipped(json.dumps(document), draw) if number % 3 == 0 else json.dumps(retyped(document, draw))


def survivors(mutants: Iterator[str], read: Callable[[str], object]) -> list[str]:
    """The mutants that were read; whatever else than an error of the package is raised fails the test."""
    read_whole: list[str] = []
    said: list[str] = []
    for mutant in mutants:
        try:
            read(mutant)
        except EffnetZooError as error:
            said.append(str(error))
        else:
            read_whole.append(mutant)
    assert all(line.isprintable() and len(line) <= LONGEST_MESSAGE for line in said)
    return read_whole


@pytest.fixture(scope="module")
def configs() -> list[Any]:
    """A variant's config.json, that of a network of one's own, and one as timm wrote them first."""
    checkpoint = ledger.load()["effnet_zoo_b0"]["in1k"]
    cfg = {
        **image_fields(checkpoint.preprocessing),
        "tag": "in1k",
        "license": "mit",
        "notes": ["a"],
        "strange": [1],
    }
    spec = create_model("effnet_zoo_lite0", device="meta").arch
    own = ArchSpec.from_rows([(1, 8, 1, 1, 1), (4, 16, 1, 2, 1)], stem=8, head=64)
    written = [config_json.config_text(arch, {"num_classes": 2}, cfg, ("ant", "bee")) for arch in (spec, own)]
    return [*map(json.loads, written), {"architecture": "tf_efficientnet_b0", "num_classes": 5, **cfg}]


def test_a_spoilt_config_is_read_or_refused(configs: list[Any], tmp_path: Path) -> None:
    def read(mutant: str) -> None:
        # As read_config does, without a file: to write thousands takes longer than to read them.
        config_json.parse_config(documents.from_json(mutant, dict[str, Any], "made.json", WeightsError), "made.json")

    for document in configs:
        read(json.dumps(document))
    read_whole = survivors(json_mutants(configs, 4000, seed=1), read)
    assert 400 < len(read_whole) < 3500
    for mutant in read_whole[::80]:  # and what was read is built, or refused
        (tmp_path / config_json.CONFIG_FILE).write_text(mutant, encoding="utf-8")
        survivors(iter([f"local-dir:{tmp_path}"]), lambda place: create_model(place, device="meta"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pretrained_cfg": {"mean": [0.5, "a", 0.5]}}, r"pretrained_cfg\.mean\[1\]: expected float, found str$"),
        ({"pretrained_cfg": {"input_size": [3, 224]}}, r"pretrained_cfg\.input_size: expected array of length 3"),
        ({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0, 1, 1]}}, "pretrained_cfg without input_size, crop_pct"),
        ({"pretrained_cfg": []}, r"pretrained_cfg: expected object"),
        ({"model_args": {"bn_eps": "x"}}, r"model_args\.bn_eps: expected float"),
        ({"model_args": {"pad_type": []}}, r"model_args\.pad_type: expected str"),
        ({"model_args": {"global_pool": "median"}}, r"global_pool='median': expected one of"),
        ({"model_args": {"output_stride": 5}}, r"output_stride=5: expected 8, 16, 32"),
        ({"num_classes": 2**40}, r"num_classes=1099511627776: expected a whole number"),
        ({"label_names": "ab"}, r"label_names: expected array"),
        ({"label_names": ["a", 5]}, r"label_names\[1\]: expected str, found int"),
        ({"architecture": None}, r"architecture: expected str, found null"),
        ({"architecture": ["b0"]}, r"architecture: expected str, found array"),
    ],
)
def test_an_error_in_a_config_names_file_field_and_what_was_expected(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / config_json.CONFIG_FILE
    path.write_text(json.dumps({"architecture": "tf_efficientnet_b0", **change}))
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}: .*{message}"):
        config_json.read_config(path)


def test_images_of_a_config_that_cannot_be_computed_with_are_named(configs: list[Any], tmp_path: Path) -> None:
    path = tmp_path / config_json.CONFIG_FILE
    for field, value in (("std", [0, 1, 1]), ("std", [1e-320] * 3), ("input_size", [3, 10**9, 224]), ("crop_pct", 0)):
        spoilt = copy.deepcopy(configs[0])
        spoilt["pretrained_cfg"][field] = value
        path.write_text(json.dumps(spoilt))
        with pytest.raises(WeightsError, match=rf"^{re.escape(str(path))}: {field.replace('input_', '')} .*: expected"):
            config_json.read_config(path)


def test_unknown_fields_of_a_record_are_kept(configs: list[Any]) -> None:
    assert config_json.parse_config(configs[0], "a config").pretrained_cfg["strange"] == [1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stem_filters", 999_999, "a network of .* parameters: expected at most 2.0e.09"),
        ("repeats", 999_999, "a network of 10000.. blocks: expected at most 1000"),
    ],
)
def test_a_network_that_no_memory_holds_is_refused(configs: list[Any], field: str, value: int, message: str) -> None:
    spoilt = copy.deepcopy(configs[1])
    arch = spoilt["model_args"]["arch"]
    if field == "repeats":
        arch["stages"][0]["repeats"] = value
    else:
        arch["stem_filters"] = arch["stages"][0]["in_filters"] = arch["head_filters"] = value
        arch["stages"][-1]["out_filters"] = value
    with pytest.raises(WeightsError, match=message):
        config_json.parse_config(spoilt, "a config")


TOML = ["nan", "inf", "-1", "0", "1e400", "9" * 500, "true", '""', '"\\u0000"', "[]", "{}", "[[]]", "{ a = { b = 1 } }"]
TOML += ["1979-05-27", "07:32:00", "[0.5, nan, 0.5]", "[0.5, 0.5]", '"x"', DEEP, "[{ size = 1 }]", "'''a\nb'''"]


def ledger_mutants(text: str, count: int, seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    lines = text.splitlines()
    for number in range(count):
        if number % 2:
            yield flipped(text, draw)
            continue
        spoilt, at = list(lines), draw.randrange(len(lines))
        key = spoilt[at].partition(" = ")[0]
        spoilt[at : at + 1] = draw.choice(
            [[], [spoilt[at]] * 2, [f"{key} = {draw.choice(TOML)}"], [f"{key} = {draw.choice(TOML)}"], [f"{key}x = 1"]]
        )
        yield "\n".join(spoilt)


def test_a_spoilt_ledger_is_read_or_refused() -> None:
    whole = (ledger.FOLDER / "efficientnet.toml").read_text(encoding="utf-8")
    entries = re.findall(r"(?ms)^\[effnet_zoo_b0\..*?(?=^\[|\Z)", whole)
    text = "".join(entries[:2])
    assert len(ledger.parse(text, "made.toml")["effnet_zoo_b0"]) == 2
    read_whole = survivors(ledger_mutants(text, 2500, seed=2), lambda mutant: ledger.parse(mutant, "made.toml"))
    assert 100 < len(read_whole) < 2000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop_pct", "0.001", r"\[effnet_zoo_b0\.in1k\]: crop_pct 0\.001: expected a share from 0\.01 to 1"),
        ("eval_size", "99999", r"\[effnet_zoo_b0\.in1k\]: size \(99999, 99999\): expected height and width"),
        ("std", "[1e-320, 0.5, 0.5]", r"\[effnet_zoo_b0\.in1k\]: std .*: expected a number from 1e-06"),
        ("mean", f"[{'9' * 400}, 0.5, 0.5]", r"\[effnet_zoo_b0\.in1k\]: mean = .*characters left out"),
        ("recipe", DEEP, r"made\.toml: expected TOML"),
    ],
)
def test_what_a_ledger_says_of_images_can_be_computed_with(key: str, value: str, message: str) -> None:
    whole = (ledger.FOLDER / "efficientnet.toml").read_text(encoding="utf-8")
    (entry,) = re.findall(r"(?ms)^\[effnet_zoo_b0\.in1k\].*?(?=^\[|\Z)", whole)
    spoilt = re.sub(rf"(?m)^{key} = .*$", lambda _: f"{key} = {value}", entry)
    with pytest.raises(LedgerError, match=message):
        ledger.parse(spoilt + "default = true\n", "made.toml")


def test_spoilt_class_names_are_read_or_refused(tmp_path: Path) -> None:
    made: list[Any] = [["ant", "bee"], {"0": "ant", "1": "bee"}, {"ant": 0, "bee": 1}]

    def read(mutant: str, name: str = "names.json") -> None:
        (tmp_path / name).write_text(mutant, encoding="utf-8", errors="surrogatepass")
        assert all(isinstance(label, str) and label for label in read_labels(tmp_path / name))

    for document in made:
        read(json.dumps(document))
    survivors(json_mutants(made, 400, seed=3), read)
    draw = random.Random(4)
    survivors((flipped("ant\nbee\n", draw) for _ in range(200)), lambda mutant: read(mutant, "names.txt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ant\n\nbee\n", "class 1 is '': expected a name"),
        (b"ant\nb\x0cee\n", "class 1 is 'b.*ee': expected a name without control characters"),
        (b"ant\nb\x1b[2Jee\n", "without control characters"),
        ("ant\nb\u2028ee\n".encode(), "without control characters"),
        (b"", "class 0 is '': expected a name"),
        (b"\xff", "expected UTF-8 text, found the byte 0xff"),
    ],
)
def test_a_class_name_that_cannot_be_shown_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "names.txt")


def test_two_classes_may_have_the_same_name_as_in_imagenet(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("crane\r\nmaillot\r\ncrane\r\nپیش‌بینی\r\n".encode())
    assert read_labels(tmp_path / "names.txt") == ("crane", "maillot", "crane", "پیش‌بینی")
