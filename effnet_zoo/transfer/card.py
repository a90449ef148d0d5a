"""Describe published weights for people, in the model card and in the ledger's entry.

The card, ``README.md``, has metadata that the Hub reads, and a generated section between two marks. Text outside of the
marks and other metadata are the author's. They stay.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from huggingface_hub import CardData, RepoCard

from effnet_zoo import __version__, documents
from effnet_zoo.arch.checks import is_number
from effnet_zoo.atomic_io import read_bytes
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.config_json import variant_of
from effnet_zoo.errors import ArgumentError, LedgerError, quoted
from effnet_zoo.zoo import catalogue, ledger

CARD_FILE = "README.md"
BEGIN = "<!-- effnet-zoo: generated, text outside of these marks is kept -->"
END = "<!-- effnet-zoo: end of generated -->"
_GENERATED = re.compile(f"{re.escape(BEGIN)}((?!{re.escape(BEGIN)}).)*?{re.escape(END)}", re.DOTALL)
"""Match from the last begin mark before an end mark. If an end mark was removed, the text after it stays."""
IMAGENET = "ImageNet-1k validation"
UNNAMED = "the publisher's own data"
WHOSE = {True: "(measured)", False: "(reported)"}
UNFIT = f"the metadata of the {CARD_FILE} there is not valid for a model card: correct it first"
TASK = "image-classification"
TAGS = (TASK, "timm", "transformers", "efficientnet")
CODE = """```python
import {imports}

model = timm.create_model("{address}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```"""
NOT_STATED = "not stated"
METRIC_NAMES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}


class _Result(TypedDict, total=False):
    metrics: list[dict[str, Any]] | None


class _Model(TypedDict, total=False):
    results: list[_Result] | None


_Metadata = TypedDict("_Metadata", {"tags": str | list[str] | None, "model-index": list[_Model] | None}, total=False)
"""The part of a card's metadata that is read. Other fields are kept as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure for the card.

    Attributes:
        name: ``top-1 accuracy``, ``top-5 accuracy`` or another.
        value: The value in percent.
        measured: Whether the publisher of the weights measured it. If not, `source` reports it.
        source: The publication that reports the value.
        dataset: The data it was measured on. By default, ImageNet's validation set for a thousand classes, and
            the publisher's own data for others.

    Raises:
        ArgumentError: If the name is empty, or the value is not a percentage.
    """

    name: str
    value: float
    measured: bool
    source: str = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "source", "dataset"):
            if not isinstance(getattr(self, field), str):
                raise ArgumentError(f"metric's {field}={quoted(getattr(self, field))}: expected a text")
        if not self.name or not is_number(self.value) or not 0 <= self.value <= 100:
            raise ArgumentError(
                f"metric {quoted(self.name)}: {quoted(self.value)}: expected a name and a percentage, such as top1=78.3"
            )

    def dataset_of(self, bundle: Bundle) -> str:
        """Return what it was measured on."""
        return self.dataset or (IMAGENET if bundle.num_classes == 1000 else UNNAMED)


def parse_metric(text: str, *, measured: bool) -> Metric:
    """Parse ``top1=78.3`` or ``top1=78.3@DATASET``."""
    name, _, figure = text.partition("=")
    value, _, dataset = figure.partition("@")
    number: Any = value  # which `Metric` refuses
    with suppress(ValueError):
        number = float(value)
    return Metric(name=METRIC_NAMES.get(name, name), value=number, measured=measured, dataset=dataset.strip())


def reported_metrics(bundle: Bundle) -> list[Metric]:
    """Return what the ledger reports for a checkpoint, if its network and preprocessing are the ledger's."""
    for model, checkpoint in catalogue.checkpoints():
        is_ours = (checkpoint.name, model.spec, checkpoint.preprocessing) == (bundle.source, bundle.arch, bundle.images)
        if is_ours and (reported := checkpoint.reported_at_eval_size):
            return [
                Metric(name=name, value=getattr(reported, field), measured=False, source=ledger.REPORTED_SOURCE)
                for field, name in METRIC_NAMES.items()
            ]
    return []


def read_card(path: Path, name: str) -> str:
    """Return the text of a ``README.md``, which errors call by a name."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        advice = "save the file as UTF-8, so that its text can be kept"
        raise ArgumentError(f"{name}: expected UTF-8 text: {advice}") from None


def card_text(bundle: Bundle, address: str, metrics: Sequence[Metric], existing: str = "") -> str:
    """Return the text of ``README.md``, with what is not generated in the existing one.

    A loader takes the address: ``hf-hub:owner/name`` or ``local-dir:FOLDER``.
    """
    if not isinstance(metrics, Sequence) or not all(isinstance(metric, Metric) for metric in metrics):
        raise ArgumentError(f"metrics={quoted(metrics)}: expected a list of effnet_zoo.transfer.card.Metric")
    section, title = _section(bundle, address, metrics), re.split("[:/]", address.rstrip("/"))[-1]
    try:
        metadata, text = _split(existing.replace("\r\n", "\n"))
        known = documents.from_plain(metadata, _Metadata, UNFIT, ArgumentError)
        results = [*(_result(metric, bundle) for metric in metrics), *_foreign(metadata.get("model-index"))]
        metadata |= {"license": licence_of(bundle), "library_name": "timm", "pipeline_tag": TASK}
        metadata["model-index"] = [{"name": title, "results": results}]  # in its place: equal cards are equal texts
        if not results:
            del metadata["model-index"]
        tags = known.get("tags") or []
        metadata["tags"] = list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *TAGS]))
        head = CardData(**metadata).to_yaml()
    except ArgumentError:
        raise
    except Exception as error:  # the client raises what its YAML library does
        raise ArgumentError(f"{UNFIT}: {' '.join(str(error).split())}") from error
    if _GENERATED.search(text):
        text = _GENERATED.sub(lambda _: section, text, count=1)
    else:
        text = f"{text.rstrip()}\n\n{section}\n" if text.strip() else f"# {title}\n\n{section}\n"
    return f"---\n{head}\n---\n{text}"


def _split(readme: str) -> tuple[dict[str, Any], str]:
    if not re.match(r"\s*---\n.*?\n---(\n|$)", readme, re.DOTALL):
        return {}, readme
    present = RepoCard(readme)
    return present.data.to_dict(), present.text  # type: ignore[no-untyped-call]


def _result(metric: Metric, bundle: Bundle) -> dict[str, Any]:
    """Return a result as a model-index has it. A source stands in the text alone: here it would need an address."""
    dataset = metric.dataset_of(bundle)
    kind = "accuracy" if "accuracy" in metric.name else metric.name
    return {
        "task": {"type": TASK},
        "dataset": {"name": dataset, "type": re.sub(r"\W+", "-", dataset.lower())},
        "metrics": [{"type": kind, "value": metric.value, "name": f"{metric.name} {WHOSE[metric.measured]}"}],
    }


def _foreign(index: Any) -> list[dict[str, Any]]:
    """Return the results that this package did not write. Those that it wrote are of the weights before."""
    results = [result for model in index or () for result in model.get("results") or ()]
    return [
        result
        for result in results
        if not all(str(metric.get("name")).endswith(tuple(WHOSE.values())) for metric in result.get("metrics") or ())
    ]


def licence_of(bundle: Bundle) -> str:
    """Return the licence of the weights. Raise ArgumentError if it is not known, or is not an SPDX identifier."""
    licence = bundle.record.get("license")
    if not licence:
        raise ArgumentError(
            f"{bundle.source}: no licence is known: expected --license with an identifier, such as apache-2.0"
        )
    ledger.check_licence(licence)
    return str(licence)


def _section(bundle: Bundle, address: str, metrics: Sequence[Metric]) -> str:
    assert bundle.images is not None
    model, how, arch, record = variant_of(bundle.arch), bundle.images, bundle.arch, bundle.record
    place = Path(bundle.source)  # only a file's name is published: its folder is private
    source = str(record.get("origin_url") or (place.name if place.exists() else bundle.source))
    in_chans = bundle.options["in_chans"]
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
    rows = {
        "architecture": f"{model.family.title} `{model.hub_name}`" if model else f"`{bundle.variant}`, its own",
        "numerics": f"{arch.activation}, {arch.padding} padding, batch norm eps {arch.bn_eps:g}",
        "parameters": f"{arch.parameters(num_classes=bundle.num_classes, in_chans=in_chans):,}",
        "classes": bundle.num_classes,
        "channels": in_chans,
        "image": f"{how.size[0]}x{how.size[1]}, {how.interpolation}, {how.crop_mode} crop {how.crop_pct:g}; "
        "turned as its EXIF orientation says",
        "mean, std": f"{mean}; {std}",
        "licence": licence_of(bundle),
        "source": source,
        **({"training data": record["description"]} if record.get("description") else {}),
    }
    figures = [
        (
            f"{metric.name}, {metric.dataset_of(bundle)}",
            f"{metric.value:g} %",
            "measured by the publisher" if metric.measured else f"reported: {metric.source or source}",
        )
        for metric in metrics
    ]
    proofs = record.get("notes") or ()
    labels = bundle.labels or ()
    some = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
    imports = "timm" if model else "timm, effnet_zoo  # registers the architecture"
    parts = (
        BEGIN,
        _table(("", ""), *rows.items()),
        _table(("metric", "value", "whose"), *figures) if figures else "",
        f"Converted weights, compared with where they came from: {'; '.join(proofs)}." if proofs else "",
        f"Class names ({len(labels)}, in config.json): {some}." if labels else "",
        CODE.format(imports=imports, address=address),
        f"Written by effnet-zoo {__version__}.\n{END}",
    )
    return "\n\n".join(part for part in parts if part)


def _table(header: Sequence[object], *rows: Sequence[object]) -> str:
    texts = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows))
    head, *rest = (f"| {' | '.join(cells)} |" for cells in texts)
    return "\n".join([head, "|---" * len(header) + "|", *rest])


def ledger_entry(bundle: Bundle, repo_id: str, commit: str, sha256: str) -> str | None:
    """Return the entry for published weights, ready to paste. Return None if the ledger cannot describe the weights.

    The ledger describes RGB classifiers of square images, whose architecture is a variant with its own numerics.
    """
    model, images = variant_of(bundle.arch), bundle.images
    if model is None or images is None or images.size[0] != images.size[1]:
        return None
    options, ours, declared = bundle.options, bundle.arch, model.spec
    if (
        (ours.padding, ours.bn_eps, ours.activation) != (declared.padding, declared.bn_eps, declared.activation)
        or options["in_chans"] != 3
        or options.get("global_pool", "avg") != "avg"
        or options.get("output_stride")
    ):
        return None
    tag = str(bundle.record.get("tag") or re.sub(r"\W", "_", repo_id.split("/")[-1]))
    data, _, recipe = str(bundle.record.get("description") or NOT_STATED).partition("; ")
    how = dataclasses.asdict(images)
    size, _ = how.pop("size")
    fields: dict[str, Any] = {
        "hub_id": repo_id,
        "revision": commit,
        "sha256": sha256,
        "num_classes": bundle.num_classes,
        "train_size": size,
        "eval_size": size,
        **how,
        "license": licence_of(bundle),
        "source": bundle.record.get("origin_url") or f"https://huggingface.co/{repo_id}",
        "training_data": data,
        "recipe": recipe or NOT_STATED,
    }
    # JSON of a text, a number or a list of numbers is TOML too.
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    entry = "\n".join((f"[{model.name}.{tag}]", *lines, ""))
    try:
        ledger.parse(f"{entry}default = true\n", repo_id)
    except LedgerError:
        return None
    return entry
