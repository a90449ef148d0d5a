"""Pictures of measurements: accuracy against latency, ratios as bars, cost curves. Needs matplotlib."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from effnet_zoo.atomic_io import written_whole
from effnet_zoo.bench import report
from effnet_zoo.bench.label_places import place_labels
from effnet_zoo.bench.results import BASELINE, OURS, Measurement
from effnet_zoo.errors import MissingExtraError
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import REPORTED_SOURCE

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
except ImportError:
    raise MissingExtraError(
        "pictures need matplotlib, which is not installed: pip install 'effnet-zoo[bench]'"
    ) from None

SURFACE, INK, MUTED, GRID = "#ffffff", "#1c1f24", "#6b7280", "#e5e7eb"
BLUE, LIGHT_BLUE, PALE_BLUE, GREY, ORANGE, BROWN = "#2a6fb0", "#6ea8dc", "#b5d3ee", "#9aa1ac", "#d9822b", "#8a4b08"

STYLES: dict[str, tuple[str, str]] = {
    "timm": (GREY, "-"),
    "timm channels_last": (GREY, "--"),
    "timm in ONNX Runtime": (ORANGE, "-"),
    "timm in OpenVINO": (BROWN, "-"),
    "timm CUDA graph": (GREY, ":"),
    "effnet_zoo": (PALE_BLUE, "-"),
    "effnet_zoo optimized": (LIGHT_BLUE, "-"),
    "effnet_zoo engine onnxruntime": (BLUE, "--"),
    "effnet_zoo engine openvino": (BLUE, "-"),
    "effnet_zoo CUDA graph": (PALE_BLUE, ":"),
    "effnet_zoo optimized CUDA graph": (BLUE, ":"),
}
"""Colour and line of a contestant: ours blue, timm grey, its exports brown."""

CURVES = {
    "batch-curve": ("batch", "images of a batch"),
    "size-curve": ("size", "side of the image in pixels"),
    "variant-curve": ("variant", ""),
}
"""By measure, the key of the case that changes, and what it is in words."""

DPI = 120

SHORT_AXIS = 20
"""The ratio of its ends up to which a logarithmic axis has more numbers."""

ONE_COLUMN = 5
"""Measurements that are drawn below each other; more are drawn in two columns."""

NAMES_WIDTH = 0.6
"""Room for the names beside the bars, as a share of the bars' room."""

Point = tuple[float, float, str, str]
"""A mark: milliseconds, accuracy in percent, the variant's short name, and ``V1`` or ``V2``."""


def save_pictures(measurements: Sequence[Measurement], folder: Path) -> list[Path]:
    """Write every picture for which there are measurements, each whole or not at all, and return their paths.

    Args:
        measurements: Of any measures and machines.
        folder: The folder to write to, which is created.
    """
    written = []
    for group in report.by_machine(measurements):
        # One machine's pictures have plain names; those of a GPU beside it have its kind in theirs.
        ending = "-cuda" if group[0].machine["device"] == "cuda" else ""
        pictures = {f"ratios{ending}": ratios_figure(group)}
        for dtype in dict.fromkeys(one.data["case"].get("dtype") for one in group if one.measure in CURVES):
            suffix = ending if dtype == "float32" else f"-{dtype}{ending}"
            curves: dict[str, list[Measurement]] = {}
            for one in group:
                if one.measure in CURVES and one.data["case"].get("dtype") == dtype:
                    variant = one.data["case"]["variant"].removeprefix("effnet_zoo_")
                    name = one.measure if one.measure == "variant-curve" else f"{one.measure}-{variant}"
                    curves.setdefault(name, []).append(one)
            pictures[f"accuracy{suffix}"] = accuracy_figure(curves.get("variant-curve", []))
            pictures |= {f"{name}{suffix}": curve_figure(part) for name, part in curves.items()}
        for name, figure in pictures.items():
            if figure:
                with written_whole(folder / f"{name}.png") as beside:
                    figure.savefig(beside, format="png")
                written.append(folder / f"{name}.png")
    return written


# Accuracy against latency.


def accuracy_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Draw reported accuracy against measured latency, timm as created beside our fastest; None without two points."""
    points: dict[str, list[Point]] = {GREY: [], BLUE: []}
    for one in sorted(measurements, key=lambda one: one.data["case"]["macs"]):
        model = catalogue.find_variant(one.data["case"]["variant"])
        reported = model.default.reported_at_eval_size
        timed, fastest = report.seconds_of(one), report.best(one, report.is_ours)
        if reported is None or one.data["case"]["size"] != reported.size or BASELINE not in timed or not fastest:
            continue
        series = "V2" if "_v2_" in model.name else "V1"
        for colour, name in ((GREY, BASELINE), (BLUE, fastest)):
            points[colour].append((timed[name] * 1e3, reported.top1, report.short(model.name), series))
    if len(points[BLUE]) < 2:
        return None
    figure, (axes,) = _figure(9.5, 6.2)
    for colour, label in ((GREY, "timm, as created"), (BLUE, "effnet_zoo, fastest here")):
        for series, marker in (("V1", "o"), ("V2", "s")):
            if drawn := [(x, y) for x, y, _, own in points[colour] if own == series]:
                style = {"marker": marker, "markersize": 6, "linewidth": 1.5}
                axes.plot(*zip(*drawn, strict=True), color=colour, label=f"{label}, {series}", **style)
    _log_axis(axes, "x")
    axes.set_xlabel("measured ms an image at batch 1", color=INK)
    axes.set_ylabel("reported top-1 on ImageNet-1k, %, of the default checkpoint", color=INK)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.margins(0.08)
    _caption(axes, measurements, f"accuracy reported by {REPORTED_SOURCE}, not measured")
    labels = [
        ((x, y), label, BLUE if colour == BLUE else MUTED) for colour in points for x, y, label, _ in points[colour]
    ]
    place_labels(figure, axes, labels)
    return figure


# Ratios against timm.


def ratios_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Draw how many times faster than timm, a group of bars a measurement; None if nothing was compared with it."""
    groups = [
        (f"{one.measure}: {_subject(one)}", bars)
        for one in measurements
        if one.measure not in CURVES and (bars := _bars(one))
    ]
    if not groups:
        return None
    columns = 1 if len(groups) <= ONE_COLUMN else 2
    parts = [groups[column::columns] for column in range(columns)]
    rows = max(sum(len(bars) + 1.5 for _, bars in part) for part in parts)
    figure, every_axes = _figure(9.5 if columns == 1 else 13, 1.2 + 0.2 * rows, columns)
    everything = [1.0, *(ratio for _, bars in groups for _, ratio, _ in bars)]
    low, high = min(everything) * 0.9, max(everything)
    beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "color": INK}
    for axes, part in zip(every_axes, parts, strict=True):
        place = 0.0
        for label, bars in part:
            axes.annotate(label, (1, place), fontsize=9, weight="bold", **beside)
            for number, (name, ratio, colour) in enumerate(bars, start=1):
                axes.barh(place + number, ratio - 1, left=1, height=0.75, color=colour)
                axes.annotate(f"{report.times(ratio)}  {name}", (max(ratio, 1), place + number), fontsize=8, **beside)
            place += len(bars) + 1.5
        axes.set_xlim(low, high * (high / low) ** NAMES_WIDTH)
        _log_axis(axes, "x")
        axes.set_ylim(rows - 1, -1)
        axes.set_yticks([])
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_xlabel("times faster than timm as a user gets it", color=INK)
    _caption(every_axes[0], measurements, "")
    return figure


def _bars(measurement: Measurement) -> list[tuple[str, float, str]]:
    """Return name, ratio and colour of the best peer, and of ours as created, optimized, and by the fastest engine."""
    chosen = (
        (report.best_peer(measurement), ORANGE),
        (OURS, PALE_BLUE),
        (f"{OURS} optimized", LIGHT_BLUE),
        (report.best_engine(measurement), BLUE),
    )
    return [
        (name.removeprefix(f"{OURS} "), ratio, colour)
        for name, colour in chosen
        if name and name != BASELINE and (ratio := report.times_faster(measurement, name, BASELINE)) is not None
    ]


def _subject(measurement: Measurement) -> str:
    variant = measurement.data["case"].get("variant")
    return measurement.subject.replace(variant, report.short(variant)) if variant else measurement.subject


# Cost curves.


def curve_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Draw time an image against batch, size or variant, a line a contestant; None with fewer than two points.

    Args:
        measurements: Of one of `CURVES`.
    """
    if len(measurements) < 2:
        return None
    key, across = CURVES[measurements[0].measure]
    order = list(catalogue.models())
    by_variant = key == "variant"
    ordered = sorted(
        measurements, key=lambda one: order.index(one.data["case"][key]) if by_variant else one.data["case"][key]
    )
    places = [number if by_variant else one.data["case"][key] for number, one in enumerate(ordered)]
    figure, (axes,) = _figure(9.5, 5.2)
    for name in dict.fromkeys(name for one in ordered for name in report.seconds_of(one)):
        points: list[tuple[float, float]] = []
        before = None
        for place, one in zip(places, ordered, strict=True):
            if name not in report.seconds_of(one):
                continue
            family = catalogue.find_variant(one.data["case"]["variant"]).family.title
            if before not in (None, family):  # no line from one family's largest to another's smallest
                points.append((math.nan, math.nan))
            before = family
            points.append((place, report.seconds_of(one)[name] / one.data["case"]["batch"] * 1e3))
        colour, line = STYLES.get(name, (MUTED, ":"))
        style = {"linestyle": line, "marker": "o", "markersize": 3.5, "linewidth": 1.8}
        axes.plot(*zip(*points, strict=True), color=colour, label=name, **style)
    _log_axis(axes, "y")
    if by_variant:
        labels = [f"{report.short(one.data['case']['variant'])}\n{one.data['case']['size']}" for one in ordered]
        axes.set_xticks(places, labels, fontsize=8.5)
    else:
        axes.set_xscale("log")
        axes.set_xticks(places, [str(place) for place in places], fontsize=8.5)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel("ms an image", color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    case = ordered[0].data["case"]
    fixed = {
        "batch": f"{report.short(case['variant'])}, {case['size']} px",
        "size": f"{report.short(case['variant'])}, batch {case['batch']}",
        "variant": f"batch {case['batch']}, each at its own size in pixels",
    }
    _caption(axes, ordered, f"{fixed[key]}, {case['dtype']}")
    return figure


# What the figures share.


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=SURFACE, layout="constrained")
    FigureCanvasAgg(figure)
    every_axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in every_axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(GRID)
        axes.tick_params(colors=MUTED, which="both", labelsize=8.5)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, every_axes


def _log_axis(axes: Any, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic with plain numbers, at 1, 2 and 5 of each power of ten, or at more of a short axis."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > SHORT_AXIS else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _caption(axes: Any, measurements: Iterable[Measurement], more: str) -> None:
    first, *_ = measurements = list(measurements)
    lines = [
        *([more] if more else []),
        f"{report.machine_of(first)}; {report.span([one.date for one in measurements])}",
    ]
    axes.set_title("\n".join(lines), loc="left", color=MUTED, fontsize=9)
