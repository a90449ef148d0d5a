"""The model card, ``README.md``: a generated section between markers, and metadata that the Hub reads.

Text outside the markers, and metadata under other keys, are the author's and stay.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CardData, EvalResult, ModelCardData, RepoCard

from effnet_zoo import __version__, catalog
from effnet_zoo.config import variant_of
from effnet_zoo.errors import ArgumentError
from effnet_zoo.ledger import REPORTED_SOURCE
from effnet_zoo.package import Package

FILENAME = "README.md"
BEGIN = "<!-- effnet-zoo: generated, text outside of these marks is kept -->"
END = "<!-- effnet-zoo: end of generated -->"
DATASET = ("imagenet-1k", "ImageNet-1k validation")
TAGS = ("image-classification", "timm", "transformers", "efficientnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure, and whose it is.

    Attributes:
        name: ``top-1 accuracy``, ``top-5 accuracy`` or another.
        value: In percent.
        measured: By whoever publishes the weights; else reported, by `source`.
        source: Where it is reported.
        dataset: (identifier, title) of what it was measured on.
    """

    name: str
    value: float
    measured: bool
    source: str = ""
    dataset: tuple[str, str] = DATASET

    @property
    def label(self) -> str:
        """The name with whose figure it is."""
        return f"{self.name} ({'measured' if self.measured else 'reported'})"


def parse_metric(text: str, *, measured: bool, source: str = "") -> Metric:
    """Read ``top1=78.3``.

    Raises:
        ArgumentError: If it is not a name and a percentage.
    """
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not name or not 0 <= number <= 100:
        raise ArgumentError(f"metric {text!r}: expected a name and a percentage, such as top1=78.3")
    plain = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
    return Metric(name=plain.get(name, name), value=number, measured=measured, source=source)


def reported_metrics(package: Package) -> tuple[Metric, ...]:
    """What the ledger reports of a checkpoint that it has, at its own size."""
    for _, checkpoint in catalog.checkpoints():
        if checkpoint.name == package.source and (reported := checkpoint.reported_at_eval_size):
            return (
                Metric(name="top-1 accuracy", value=reported.top1, measured=False, source=REPORTED_SOURCE),
                Metric(name="top-5 accuracy", value=reported.top5, measured=False, source=REPORTED_SOURCE),
            )
    return ()


def write(package: Package, address: str, metrics: Sequence[Metric], existing: str | None = None) -> str:
    """The text of ``README.md``.

    Args:
        package: What it describes; its record's licence is required.
        address: What people load it by: ``hf-hub:owner/name`` or ``local-dir:FOLDER``.
        metrics: Figures.
        existing: The README there is; what is not generated stays.

    Raises:
        ArgumentError: If there is no licence, or the existing README's metadata cannot be read.
    """
    metadata, text = _split(existing or "")
    section, title = _section(package, address, metrics), re.split("[:/]", address.rstrip("/"))[-1]
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        text = f"{before}{section}{after}"
    else:
        text = f"{text.rstrip()}\n\n{section}\n" if text.strip() else f"# {title}\n\n{section}\n"
    merged = {**metadata, **_metadata(package, title, metrics)}
    merged["tags"] = list(dict.fromkeys([*metadata.get("tags", []), *TAGS]))
    return f"---\n{CardData(**merged).to_yaml()}\n---\n{text}"


def _split(readme: str) -> tuple[dict[str, Any], str]:
    if not readme.startswith("---\n"):
        return {}, readme
    try:
        card = RepoCard(readme)
    except Exception as error:  # the client raises what its YAML reader does
        reason = " ".join(str(error).split())
        raise ArgumentError(
            f"the metadata of the {FILENAME} there is cannot be read, mend it first: {reason}"
        ) from None
    return _plain(card.data), card.text


def _plain(data: CardData) -> dict[str, Any]:
    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return fields


def _metadata(package: Package, title: str, metrics: Sequence[Metric]) -> dict[str, Any]:
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=metric.dataset[0],
            dataset_name=metric.dataset[1],
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
    return _plain(data)


def licence_of(package: Package) -> str:
    """The licence.

    Raises:
        ArgumentError: If there is none.
    """
    licence = package.record.get("license")
    if not licence:
        raise ArgumentError(
            f"{package.source}: no licence is known: expected --license with an identifier, such as apache-2.0"
        )
    return str(licence)


def _section(package: Package, address: str, metrics: Sequence[Metric]) -> str:
    assert package.images is not None
    model, how, arch = variant_of(package.arch), package.images, package.arch
    rows = {
        "architecture": f"{model.family.title} `{model.hub_name}`" if model else f"`{package.variant}`, its own",
        "numerics": f"{arch.activation}, {arch.padding} padding, batch norm eps {arch.bn_eps:g}",
        "parameters": f"{arch.parameters(num_classes=package.num_classes, in_chans=package.options['in_chans']):,}",
        "classes": str(package.num_classes),
        "channels": str(package.options["in_chans"]),
        "image": f"{how.size[0]}x{how.size[1]}, {how.interpolation}, {how.crop_mode} crop {how.crop_pct:g}",
        "mean, std": f"{_numbers(how.mean)}; {_numbers(how.std)}",
        "licence": licence_of(package),
        "source": package.record.get("origin_url") or package.source,
        **({"training data": package.record["description"]} if package.record.get("description") else {}),
    }
    proofs = [str(package.proof)] if package.proof else []
    proofs += [note for note in package.record.get("notes") or () if note not in proofs]
    lines = [BEGIN, "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]
    if metrics:
        lines += ["| metric | value | whose |", "|---|---|---|"]
        lines += [
            f"| {metric.name}, {metric.dataset[1]} | {metric.value:g} % | "
            f"{'measured by the publisher' if metric.measured else f'reported: {metric.source or package.source}'} |"
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


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
