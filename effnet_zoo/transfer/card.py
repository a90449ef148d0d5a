"""Write the model card, ``README.md``: a generated section between markers, and metadata that the Hub reads.

Text outside of the markers and metadata under other keys belong to the author and stay.
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
"""Match from the last begin marker before an end marker. If an end marker was removed, the text after it stays."""
IMAGENET = "ImageNet-1k validation"
UNNAMED = "the publisher's own data"
WHOSE = {True: "(measured)", False: "(reported)"}
UNFIT = f"the metadata of the {FILENAME} there is not valid for a model card: correct it first"
TAGS = ("image-classification", "timm", "transformers", "efficientnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """An accuracy, and who measured it.

    Attributes:
        name: ``top-1 accuracy``, ``top-5 accuracy`` or another.
        value: The value in percent.
        measured: Whether the publisher of the weights measured it. If not, `source` reports it.
        source: The publication that reports the value.
        dataset: The data it was measured on. By default, ImageNet's validation set for a thousand classes, and
            the publisher's own data for others.

    Raises:
        ArgumentError: If the name is empty or the value is not a percentage.
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
        """Return the name, with who measured it."""
        return f"{self.name} {WHOSE[self.measured]}"


class _Figure(msgspec.Struct):
    name: str | None = None


class _Result(msgspec.Struct):
    metrics: list[_Figure] | None = None


class _Results(msgspec.Struct):
    results: list[_Result] | None = None


class _Metadata(msgspec.Struct, rename={"index": "model-index"}):
    """The metadata of a card that is read here. Other fields belong to the author and stay as they are."""

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


def reported_metrics(bundle: Bundle) -> tuple[Metric, ...]:
    """Return the accuracies that the ledger reports for a checkpoint, if network and preprocessing are unchanged."""
    for model, checkpoint in catalogue.checkpoints():
        if (
            checkpoint.name == bundle.source
            and (bundle.arch, bundle.images) == (model.spec, checkpoint.preprocessing)
            and (reported := checkpoint.reported_at_eval_size)
        ):
            return (
                Metric(name="top-1 accuracy", value=reported.top1, measured=False, source=REPORTED_SOURCE),
                Metric(name="top-5 accuracy", value=reported.top5, measured=False, source=REPORTED_SOURCE),
            )
    return ()


def write(bundle: Bundle, address: str, metrics: Sequence[Metric], existing: str | None = None) -> str:
    """Return the text of ``README.md``.

    Args:
        bundle: The weights that the card describes. Their licence is required.
        address: The name to load the weights by: ``hf-hub:owner/name`` or ``local-dir:FOLDER``.
        metrics: The accuracies to show.
        existing: The text of the present README. The parts that are not generated stay.

    Raises:
        ArgumentError: If there is no licence, or the existing README's metadata cannot be read.
    """
    if not isinstance(metrics, Sequence) or not all(isinstance(metric, Metric) for metric in metrics):
        raise ArgumentError(f"metrics={quoted(metrics)}: expected a list of effnet_zoo.transfer.card.Metric")
    section, title = _section(bundle, address, metrics), re.split("[:/]", address.rstrip("/"))[-1]
    try:
        metadata, text = _split(existing or "")
        known = documents.from_plain(metadata, _Metadata, UNFIT, ArgumentError)
        merged = {**metadata, **_metadata(bundle, title, metrics, _foreign(metadata.pop("model-index", None)))}
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
    """Return the text of a present ``README.md``.

    Raises:
        ArgumentError: If it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ArgumentError(
            f"{where}: expected UTF-8 text: save the file as UTF-8, so that its text can be kept"
        ) from None


def _split(readme: str) -> tuple[dict[str, Any], str]:
    if not re.match(r"\s*---\n.*?\n---(\n|$)", readme, re.DOTALL):
        return {}, readme
    card = RepoCard(readme)
    return _plain(card.data), card.text


def _foreign(index: Any) -> list[dict[str, Any]]:
    """Return the results of a model-index that this package did not write. Its own belong to the replaced weights."""
    results = [result for model in index or () for result in model.get("results") or ()]
    return [
        result
        for result in results
        if not all(str(metric.get("name")).endswith(tuple(WHOSE.values())) for metric in result.get("metrics") or ())
    ]


def _plain(data: CardData) -> dict[str, Any]:
    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return fields


def _metadata(bundle: Bundle, title: str, metrics: Sequence[Metric], foreign: list[dict[str, Any]]) -> dict[str, Any]:
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=re.sub(r"\W+", "-", _dataset(metric, bundle).lower()),
            dataset_name=_dataset(metric, bundle),
            metric_type="accuracy" if "accuracy" in metric.name else metric.name,
            metric_name=metric.label,
            metric_value=metric.value,
            # The model-index wants a URL beside a source's name; what is reported elsewhere is named in the text.
        )
        for metric in metrics
    ]
    data = ModelCardData(
        license=licence_of(bundle),
        library_name="timm",
        pipeline_tag="image-classification",
        model_name=title if results else None,
        eval_results=results or None,
    )
    fields = _plain(data)
    ours = fields["model-index"][0]["results"] if results else []
    return {**fields, "model-index": [{"name": title, "results": [*ours, *foreign]}]} if ours or foreign else fields


def _source(bundle: Bundle) -> str:
    """Return where the weights come from. Of a path, only the name is shown: folders are private."""
    place = Path(bundle.source)
    return str(bundle.record.get("origin_url") or (place.name if place.exists() else bundle.source))


def _dataset(metric: Metric, bundle: Bundle) -> str:
    return metric.dataset or (IMAGENET if bundle.num_classes == 1000 else UNNAMED)


def licence_of(bundle: Bundle) -> str:
    """Return the licence of weights.

    Raises:
        ArgumentError: If it is not known, or it is not an identifier.
    """
    licence = bundle.record.get("license")
    if not licence:
        raise ArgumentError(
            f"{bundle.source}: no licence is known: expected --license with an identifier, such as apache-2.0"
        )
    check_licence(licence)
    return str(licence)


def _section(bundle: Bundle, address: str, metrics: Sequence[Metric]) -> str:
    assert bundle.images is not None
    model, how, arch = variant_of(bundle.arch), bundle.images, bundle.arch
    rows = {
        "architecture": f"{model.family.title} `{model.hub_name}`" if model else f"`{bundle.variant}`, its own",
        "numerics": f"{arch.activation}, {arch.padding} padding, batch norm eps {arch.bn_eps:g}",
        "parameters": f"{arch.parameters(num_classes=bundle.num_classes, in_chans=bundle.options['in_chans']):,}",
        "classes": str(bundle.num_classes),
        "channels": str(bundle.options["in_chans"]),
        "image": f"{how.size[0]}x{how.size[1]}, {how.interpolation}, {how.crop_mode} crop {how.crop_pct:g}; "
        "turned as its EXIF orientation says",
        "mean, std": f"{_numbers(how.mean)}; {_numbers(how.std)}",
        "licence": licence_of(bundle),
        "source": _source(bundle),
        **({"training data": bundle.record["description"]} if bundle.record.get("description") else {}),
    }
    proofs = [str(bundle.proof)] if bundle.proof else []
    proofs += [note for note in bundle.record.get("notes") or () if note not in proofs]
    lines = [BEGIN, "", "| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items()), ""]
    if metrics:
        lines += ["| metric | value | whose |", "|---|---|---|"]
        lines += [
            f"| {metric.name}, {_cell(_dataset(metric, bundle))} | {metric.value:g} % | "
            f"{'measured by the publisher' if metric.measured else f'reported: {metric.source or _source(bundle)}'} |"
            for metric in metrics
        ]
        lines.append("")
    if proofs:
        lines += [f"Converted weights, compared with where they came from: {'; '.join(proofs)}.", ""]
    if bundle.labels:
        some = ", ".join(bundle.labels[:5]) + (", ..." if len(bundle.labels) > 5 else "")
        lines += [f"Class names ({len(bundle.labels)}, in config.json): {some}.", ""]
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
