"""The model card, ``README.md``: a generated section between markers, and metadata that the Hub reads.

Text outside the markers, and metadata under other keys, are the author's and stay.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from huggingface_hub import CardData, EvalResult, ModelCardData, RepoCard

from effnet_zoo import __version__, documents
from effnet_zoo.arch.checks import is_number
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.config_json import variant_of
from effnet_zoo.errors import ArgumentError, quoted
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import REPORTED_SOURCE, check_licence

FILENAME = "README.md"
BEGIN = "<!-- effnet-zoo: generated, text outside of these marks is kept -->"
END = "<!-- effnet-zoo: end of generated -->"
_GENERATED = re.compile(f"{re.escape(BEGIN)}((?!{re.escape(BEGIN)}).)*?{re.escape(END)}", re.DOTALL)
"""From the last beginning before an end: a mark that somebody took away does not cost the text after it."""
IMAGENET = "ImageNet-1k validation"
UNNAMED = "the publisher's own data"
WHOSE = {True: "(measured)", False: "(reported)"}
UNFIT = f"the metadata of the {FILENAME} there is not what a model card has, mend it first"
TAGS = ("image-classification", "timm", "transformers", "efficientnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure, and whose it is.

    Attributes:
        name: ``top-1 accuracy``, ``top-5 accuracy`` or another.
        value: In percent.
        measured: By whoever publishes the weights; else reported, by `source`.
        source: Where it is reported.
        dataset: What it was measured on; by default ImageNet's validation set for a thousand classes, else unnamed.

    Raises:
        ArgumentError: If it has no name, or the value is no percentage.
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

    @property
    def label(self) -> str:
        """The name with whose figure it is."""
        return f"{self.name} {WHOSE[self.measured]}"


class _Figure(msgspec.Struct):
    name: str | None = None


class _Result(msgspec.Struct):
    metrics: list[_Figure] | None = None


class _Results(msgspec.Struct):
    results: list[_Result] | None = None


class _Metadata(msgspec.Struct, rename={"index": "model-index"}):
    """What is read of a card's metadata. Other fields are the author's, and stay as they are."""

    tags: str | list[str] | None = None
    index: list[_Results] | None = None


def parse_metric(text: str, *, measured: bool, source: str = "") -> Metric:
    """Read ``top1=78.3`` or ``top1=78.3@DATASET``.

    Raises:
        ArgumentError: If it is not a name and a percentage.
    """
    name, _, figure = text.partition("=")
    value, _, dataset = figure.partition("@")
    try:
        number = float(value)
    except ValueError:
        raise ArgumentError(f"metric {quoted(text)}: expected a name and a percentage, such as top1=78.3") from None
    plain = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
    return Metric(name=plain.get(name, name), value=number, measured=measured, source=source, dataset=dataset.strip())


def reported_metrics(package: Bundle) -> tuple[Metric, ...]:
    """What the ledger reports of a checkpoint that it has, as long as it is computed as it was reported."""
    for model, checkpoint in catalogue.checkpoints():
        if (
            checkpoint.name == package.source
            and (package.arch, package.images) == (model.spec, checkpoint.preprocessing)
            and (reported := checkpoint.reported_at_eval_size)
        ):
            return (
                Metric(name="top-1 accuracy", value=reported.top1, measured=False, source=REPORTED_SOURCE),
                Metric(name="top-5 accuracy", value=reported.top5, measured=False, source=REPORTED_SOURCE),
            )
    return ()


def write(package: Bundle, address: str, metrics: Sequence[Metric], existing: str | None = None) -> str:
    """The text of ``README.md``.

    Args:
        package: What it describes; its record's licence is required.
        address: What people load it by: ``hf-hub:owner/name`` or ``local-dir:FOLDER``.
        metrics: Figures.
        existing: The README there is; what is not generated stays.

    Raises:
        ArgumentError: If there is no licence, or the existing README's metadata cannot be read.
    """
    if not isinstance(metrics, Sequence) or not all(isinstance(metric, Metric) for metric in metrics):
        raise ArgumentError(f"metrics={quoted(metrics)}: expected a list of effnet_zoo.transfer.card.Metric")
    section, title = _section(package, address, metrics), re.split("[:/]", address.rstrip("/"))[-1]
    try:
        metadata, text = _split(existing or "")
        known = documents.from_plain(metadata, _Metadata, UNFIT, ArgumentError)
        merged = {**metadata, **_metadata(package, title, metrics, _foreign(metadata.pop("model-index", None)))}
        tags = [known.tags] if isinstance(known.tags, str) else known.tags or []
        merged["tags"] = list(dict.fromkeys([*tags, *TAGS]))
        head = CardData(**merged).to_yaml()
    except ArgumentError:
        raise
    except Exception as error:  # the client raises what its YAML reader does
        raise ArgumentError(f"{UNFIT}: {' '.join(str(error).split())}") from error
    if _GENERATED.search(text):
        text = _GENERATED.sub(lambda _: section, text, count=1)
    else:
        text = f"{text.rstrip()}\n\n{section}\n" if text.strip() else f"# {title}\n\n{section}\n"
    return f"---\n{head}\n---\n{text}"


def decode(content: bytes, where: str) -> str:
    """The text of a ``README.md`` that is there.

    Raises:
        ArgumentError: If it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ArgumentError(f"{where}: expected UTF-8 text: save it as that, what you wrote in it is to stay") from None


def _split(readme: str) -> tuple[dict[str, Any], str]:
    if not re.match(r"\s*---\n.*?\n---(\n|$)", readme, re.DOTALL):
        return {}, readme
    card = RepoCard(readme)
    return _plain(card.data), card.text


def _foreign(index: Any) -> list[dict[str, Any]]:
    """The results of a model-index that are not from here: ours are of the weights that are replaced."""
    results = [result for model in index or () for result in model.get("results") or ()]
    return [
        result
        for result in results
        if not all(str(metric.get("name")).endswith(tuple(WHOSE.values())) for metric in result.get("metrics") or ())
    ]


def _plain(data: CardData) -> dict[str, Any]:
    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return fields


def _metadata(package: Bundle, title: str, metrics: Sequence[Metric], foreign: list[dict[str, Any]]) -> dict[str, Any]:
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=re.sub(r"\W+", "-", _dataset(metric, package).lower()),
            dataset_name=_dataset(metric, package),
            metric_type="accuracy" if "accuracy" in metric.name else metric.name,
            metric_name=metric.label,
            metric_value=metric.value,
            # The model-index wants a URL beside a source's name; what is reported elsewhere is named in the text.
        )
        for metric in metrics
    ]
    data = ModelCardData(
        license=licence_of(package),
        library_name="timm",
        pipeline_tag="image-classification",
        model_name=title if results else None,
        eval_results=results or None,
    )
    fields = _plain(data)
    ours = fields["model-index"][0]["results"] if results else []
    return {**fields, "model-index": [{"name": title, "results": [*ours, *foreign]}]} if ours or foreign else fields


def _source(package: Bundle) -> str:
    """Where the weights come from; of a path only the file's name, the rest is the publisher's own affair."""
    place = Path(package.source)
    return str(package.record.get("origin_url") or (place.name if place.exists() else package.source))


def _dataset(metric: Metric, package: Bundle) -> str:
    return metric.dataset or (IMAGENET if package.num_classes == 1000 else UNNAMED)


def licence_of(package: Bundle) -> str:
    """The licence.

    Raises:
        ArgumentError: If there is none, or it is not an identifier.
    """
    licence = package.record.get("license")
    if not licence:
        raise ArgumentError(
            f"{package.source}: no licence is known: expected --license with an identifier, such as apache-2.0"
        )
    check_licence(licence)
    return str(licence)


def _section(package: Bundle, address: str, metrics: Sequence[Metric]) -> str:
    assert package.images is not None
    model, how, arch = variant_of(package.arch), package.images, package.arch
    rows = {
        "architecture": f"{model.family.title} `{model.hub_name}`" if model else f"`{package.variant}`, its own",
        "numerics": f"{arch.activation}, {arch.padding} padding, batch norm eps {arch.bn_eps:g}",
        "parameters": f"{arch.parameters(num_classes=package.num_classes, in_chans=package.options['in_chans']):,}",
        "classes": str(package.num_classes),
        "channels": str(package.options["in_chans"]),
        "image": f"{how.size[0]}x{how.size[1]}, {how.interpolation}, {how.crop_mode} crop {how.crop_pct:g}; "
        "turned as its EXIF orientation says",
        "mean, std": f"{_numbers(how.mean)}; {_numbers(how.std)}",
        "licence": licence_of(package),
        "source": _source(package),
        **({"training data": package.record["description"]} if package.record.get("description") else {}),
    }
    proofs = [str(package.proof)] if package.proof else []
    proofs += [note for note in package.record.get("notes") or () if note not in proofs]
    lines = [BEGIN, "", "| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items()), ""]
    if metrics:
        lines += ["| metric | value | whose |", "|---|---|---|"]
        lines += [
            f"| {metric.name}, {_cell(_dataset(metric, package))} | {metric.value:g} % | "
            f"{'measured by the publisher' if metric.measured else f'reported: {metric.source or _source(package)}'} |"
            for metric in metrics
        ]
        lines.append("")
    if proofs:
        lines += [f"Converted weights, compared with where they came from: {'; '.join(proofs)}.", ""]
    if package.labels:
        some = ", ".join(package.labels[:5]) + (", ..." if len(package.labels) > 5 else "")
        lines += [f"Class names ({len(package.labels)}, in config.json): {some}.", ""]
    lines += [*_usage(address, known=model is not None), "", f"Written by effnet-zoo {__version__}.", END]
    return "\n".join(lines)


def _usage(address: str, *, known: bool) -> list[str]:
    imports = "import timm" if known else "import timm, effnet_zoo  # registers the architecture"
    return [
        "```python",
        imports,
        "",
        f'model = timm.create_model("{address}", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "```",
    ]


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
