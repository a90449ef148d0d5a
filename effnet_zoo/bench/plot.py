"""Pictures of measurements: accuracy against latency, ratios as bars, cost curves. Needs matplotlib."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effnet_zoo.atomic_io import written_whole
from effnet_zoo.bench import report
from effnet_zoo.bench.report import BLUE, CURVE_STYLES, GREY, LIGHT_BLUE, ORANGE, PALE_BLUE
from effnet_zoo.bench.results import BASELINE, OURS, Measurement, library_of
from effnet_zoo.errors import MissingExtraError
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import REPORTED_SOURCE

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    from matplotlib.transforms import Bbox
except ImportError:
    raise MissingExtraError(
        "pictures need matplotlib, which is not installed: pip install 'effnet-zoo[bench]'"
    ) from None

SURFACE, INK, MUTED, GRID = "#ffffff", "#1c1f24", "#6b7280", "#e5e7eb"

CURVES = {
    "batch-curve": ("batch", "images of a batch"),
    "size-curve": ("size", "side of the image in pixels"),
    "variant-curve": ("variant", ""),
}
"""By measure, the key of the case that changes, and what it is in words."""

SHORT_AXIS = 20  # the ratio of its ends up to which a logarithmic axis has more numbers
ONE_COLUMN = 5  # measurements that are drawn below each other; more are drawn in two columns
NAMES_WIDTH = 0.6  # room for the names beside the bars, as a share of the bars' room


def save_pictures(measurements: Sequence[Measurement], folder: Path) -> list[Path]:
    """Write every picture for which there are measurements, each whole or not at all, and return their paths.

    The measurements are of any measures and machines. The folder is created.
    """
    written = []
    for group in report.by_machine(measurements):
        # One machine's pictures have plain names; those of a GPU beside it have its kind in theirs.
        ending = "-cuda" if group[0].machine["device"] == "cuda" else ""
        pictures = {f"ratios{ending}": ratios_figure(group)}
        curves: dict[str, dict[str, list[Measurement]]] = {}
        for one in group:
            if one.measure in CURVES:
                case = one.data["case"]
                fixed = "" if CURVES[one.measure][0] == "variant" else case["variant"].removeprefix("effnet_zoo_")
                name = "-".join(filter(None, (one.measure, fixed)))
                suffix = ending if case["dtype"] == "float32" else f"-{case['dtype']}{ending}"
                curves.setdefault(suffix, {}).setdefault(name, []).append(one)
        for suffix, parts in curves.items():
            pictures[f"accuracy{suffix}"] = accuracy_figure(parts.get("variant-curve", []))
            pictures |= {f"{name}{suffix}": curve_figure(part) for name, part in parts.items()}
        for name, figure in pictures.items():
            if figure:
                with written_whole(folder / f"{name}.png") as beside:
                    figure.savefig(beside, format="png")
                written.append(folder / f"{name}.png")
    return written


# Accuracy against latency.

LABEL_OFFSETS = (
    *((0, 9), (0, -9), (-9, 7), (9, 7), (-9, -7), (9, -7)),
    *((-12, 0), (12, 0), (0, 20), (0, -20), (-16, 16), (16, -16)),
)
"""Where the label of a mark may be, in points from it, the best place first."""

LINE_PLACES = 40  # places on a line between two marks that a label should not cover


def accuracy_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Draw reported accuracy against measured latency, timm as created beside our fastest; None without two points."""
    points: list[tuple[str, str, tuple[float, float], str]] = []  # colour, family, place, label
    for one in sorted(measurements, key=lambda one: one.data["case"]["macs"]):
        model = catalogue.find_variant(one.data["case"]["variant"])
        reported = model.default.reported_at_eval_size
        timed, fastest = report.seconds_of(one), report.best(one, lambda name: library_of(name) == OURS)
        if reported and one.data["case"]["size"] == reported.size and BASELINE in timed and fastest:
            for colour, name in ((GREY, BASELINE), (BLUE, fastest)):
                place = (timed[name] * 1e3, reported.top1)
                points.append((colour, model.family.title, place, report.short(model.name)))
    if len(points) < 4:
        return None
    figure, (axes,) = _figure(9.5, 6.2)
    families = dict.fromkeys(family for _, family, *_ in points)
    for colour, who in ((GREY, "timm, as created"), (BLUE, "effnet_zoo, fastest here")):
        for family, marker in zip(families, itertools.cycle("os^v"), strict=False):
            places = [place for *series, place, _ in points if series == [colour, family]]
            style = {"marker": marker, "markersize": 6, "linewidth": 1.5}
            axes.plot(*zip(*places, strict=True), color=colour, label=f"{who}, {family}", **style)
    _log_axis(axes.xaxis)
    axes.set_xlabel("measured ms an image at batch 1", color=INK)
    axes.set_ylabel("reported top-1 on ImageNet-1k, %, of the default checkpoint", color=INK)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.margins(0.08)
    _caption(axes, measurements, f"accuracy reported by {REPORTED_SOURCE}, not measured")
    _place_labels(
        figure, axes, [(place, label, BLUE if colour == BLUE else MUTED) for colour, _, place, label in points]
    )
    return figure


def _place_labels(figure: Figure, axes: Any, labels: Sequence[tuple[tuple[float, float], str, str]]) -> None:
    """Write labels (place of the mark, text, colour) where they cover fewest marks, lines and other labels."""

    def around(place: Any, reach: float) -> Bbox:
        return Bbox([place - reach, place + reach])

    figure.draw_without_rendering()
    taken = [around(axes.transData.transform(place), 5) for place, *_ in labels]
    for line in axes.lines:
        for start, end in itertools.pairwise(axes.transData.transform(line.get_xydata())):
            taken += [around(start + (end - start) * step / LINE_PLACES, 1.5) for step in range(LINE_PLACES)]
    for place, label, colour in labels:
        tried = []
        for dx, dy in LABEL_OFFSETS:
            text = axes.annotate(
                label,
                place,
                (dx, dy),
                textcoords="offset points",
                ha="center" if dx == 0 else "left" if dx > 0 else "right",
                va="center" if dy == 0 else "bottom" if dy > 0 else "top",
                color=colour,
                fontsize=8.5,
            )
            box = text.get_window_extent()
            shared = (Bbox.intersection(box, other) for other in taken)
            tried.append((sum(one.width * one.height for one in shared if one), text, box))
        tried.sort(key=lambda one: one[0])
        taken.append(tried[0][2])
        for _, text, _ in tried[1:]:
            text.remove()


# Ratios against timm.


def ratios_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Draw how many times faster than timm, a group of bars a measurement; None if nothing was compared with it."""
    groups = []
    for one in measurements:
        bars = [] if one.measure in CURVES else _bars(one)
        if bars:
            variant = one.data["case"].get("variant", "")
            groups.append((f"{one.measure}: {one.subject.replace(variant, report.short(variant))}", bars))
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
        _log_axis(axes.xaxis)
        axes.set_ylim(rows - 1, -1)
        axes.set_yticks([])
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_xlabel("times faster than timm as a user gets it", color=INK)
    _caption(every_axes[0], measurements)
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


# Cost curves.


def curve_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Draw time an image against batch, size or variant, a line a contestant; None with fewer than two points.

    The measurements are of one of `CURVES`.
    """
    if len(measurements) < 2:
        return None
    key, across = CURVES[measurements[0].measure]
    by_variant = key == "variant"
    variants = list(catalogue.models())

    def rank(one: Measurement) -> int:
        value = one.data["case"][key]
        return variants.index(value) if by_variant else value

    ordered = sorted(measurements, key=rank)
    figure, (axes,) = _figure(9.5, 5.2)
    for name in dict.fromkeys(name for one in ordered for name in report.seconds_of(one)):
        points: list[tuple[float, float]] = []
        before = None
        for place, one in enumerate(ordered):
            if name not in report.seconds_of(one):
                continue
            family = catalogue.find_variant(one.data["case"]["variant"]).family.title
            if before not in (None, family):  # no line from one family's largest to another's smallest
                points.append((math.nan, math.nan))
            before = family
            points.append((place, report.seconds_of(one)[name] / one.data["case"]["batch"] * 1e3))
        colour, line = CURVE_STYLES.get(name, (MUTED, ":"))
        style = {"linestyle": line, "marker": "o", "markersize": 3.5, "linewidth": 1.8}
        axes.plot(*zip(*points, strict=True), color=colour, label=name, **style)
    _log_axis(axes.yaxis)
    cases = [one.data["case"] for one in ordered]
    labels = [f"{report.short(case['variant'])}\n{case['size']}" if by_variant else str(case[key]) for case in cases]
    axes.set_xticks(range(len(ordered)), labels, fontsize=8.5)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel("ms an image", color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    case, variant = cases[0], report.short(cases[0]["variant"])
    fixed = {
        "batch": f"{variant}, {case['size']} px",
        "size": f"{variant}, batch {case['batch']}",
        "variant": f"batch {case['batch']}, each at its own size in pixels",
    }
    _caption(axes, ordered, f"{fixed[key]}, {case['dtype']}")
    return figure


# What the figures share.


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), dpi=120, facecolor=SURFACE, layout="constrained")
    FigureCanvasAgg(figure)
    every_axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in every_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(colors=MUTED, which="both", labelsize=8.5)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, every_axes


def _log_axis(axis: Any) -> None:
    """Make an axis logarithmic with plain numbers, at 1, 2 and 5 of each power of ten, or at more of a short axis."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > SHORT_AXIS else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _caption(axes: Any, measurements: Sequence[Measurement], more: str = "") -> None:
    where = f"{report.machine_of(measurements[0])}; {report.span([one.date for one in measurements])}"
    axes.set_title("\n".join(filter(None, (more, where))), loc="left", color=MUTED, fontsize=9)
