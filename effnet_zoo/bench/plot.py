"""Pictures of records: accuracy against latency, ratios as bars, cost curves. Needs matplotlib."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from effnet_zoo.atomic_io import written_whole
from effnet_zoo.bench import report
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
    "batch-curve": ("batch", "images of a batch", "ms an image"),
    "size-curve": ("size", "side of the image in pixels", "ms an image"),
    "variant-curve": ("variant", "", "ms an image"),
}
"""By measure, the key of the case that changes, what it is, and what is drawn against it."""

DPI = 120

SHORT = 20
"""The ratio of its ends up to which a logarithmic axis has more numbers."""


def save_pictures(records: Sequence[Measurement], folder: Path) -> list[Path]:
    """Write every picture that the records have something for, each whole or not at all.

    Args:
        records: Of any measures.
        folder: Where to; it is made.

    Returns:
        The files that were written.
    """
    written = []
    for group in report.by_machine(records):
        # One machine's pictures have plain names; those of a GPU beside it have its kind in theirs.
        ending = "-cuda" if group[0].machine["device"] == "cuda" else ""
        dtypes = dict.fromkeys(record.data["case"].get("dtype") for record in group if "curve" in record.measure)
        for dtype in dtypes:
            suffix = ending if dtype == "float32" else f"-{dtype}{ending}"
            some = [record for record in group if record.data["case"].get("dtype") == dtype]
            curve = [record for record in some if record.measure == "variant-curve"]
            if figure := accuracy_figure(curve):
                written.append(_saved(figure, folder / f"accuracy{suffix}.png"))
            for measure in CURVES:
                for name, part in _curves(measure, some).items():
                    if figure := curve_figure(measure, part):
                        written.append(_saved(figure, folder / f"{name}{suffix}.png"))
        if figure := ratios_figure(group):
            written.append(_saved(figure, folder / f"ratios{ending}.png"))
    return written


def _curves(measure: str, records: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    """The records of each curve by its picture's name: one a variant, unless that is what changes."""
    curves: dict[str, list[Measurement]] = {}
    for record in records:
        if record.measure == measure:
            variant = record.data["case"]["variant"]
            name = measure if measure == "variant-curve" else f"{measure}-{variant.removeprefix('effnet_zoo_')}"
            curves.setdefault(name, []).append(record)
    return curves


# Accuracy against latency.


def accuracy_figure(records: Sequence[Measurement]) -> Figure | None:
    """Reported accuracy against measured latency, timm as created beside our fastest; None without two points."""
    points: dict[str, list[_Point]] = {"timm": [], "ours": []}
    for record in sorted(records, key=lambda record: record.data["case"]["macs"]):
        model = catalogue.find_variant(record.data["case"]["variant"])
        reported = model.default.reported_at_eval_size
        timed = report.seconds_of(record)
        fastest = report.best(record, report.is_ours)
        if reported is None or record.data["case"]["size"] != reported.size or BASELINE not in timed or not fastest:
            continue
        for who, name in (("timm", BASELINE), ("ours", fastest)):
            points[who].append(
                _Point(
                    x=timed[name] * 1e3,
                    y=reported.top1,
                    label=report.short(model.name),
                    series="V2" if "_v2_" in model.name else "V1",
                )
            )
    if len(points["ours"]) < 2:
        return None
    figure, (axes,) = _figure(9.5, 6.2)
    for who, colour, label in (("timm", GREY, "timm, as created"), ("ours", BLUE, "effnet_zoo, fastest here")):
        for series, marker in (("V1", "o"), ("V2", "s")):
            drawn = [point for point in points[who] if point.series == series]
            if drawn:
                axes.plot(
                    [point.x for point in drawn],
                    [point.y for point in drawn],
                    color=colour,
                    marker=marker,
                    markersize=6,
                    linewidth=1.5,
                    label=f"{label}, {series}",
                )
    _log_axis(axes, "x")
    axes.set_xlabel("measured ms an image at batch 1", color=INK)
    axes.set_ylabel("reported top-1 on ImageNet-1k, %, of the default checkpoint", color=INK)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.margins(0.08)
    _caption(axes, records, f"accuracy reported by {REPORTED_SOURCE}, not measured")
    _place_labels(figure, axes, [(point, GREY) for point in points["timm"]] + [(p, BLUE) for p in points["ours"]])
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    x: float
    y: float
    label: str
    series: str


_OFFSETS = [
    (0, 9),
    (0, -9),
    (-9, 7),
    (9, 7),
    (-9, -7),
    (9, -7),
    (-12, 0),
    (12, 0),
    (0, 20),
    (0, -20),
    (-16, 16),
    (16, -16),
]
"""Where a label may be, in points from its mark, the best place first."""


STEPS = 40
"""Places on a line between two marks that a label should not cover."""


def _place_labels(figure: Figure, axes: Any, wanted: Sequence[tuple[_Point, str]]) -> None:
    """Write labels where they cover neither a mark nor each other, or leave one where it covers least."""
    figure.draw_without_rendering()
    taken = [_around(axes.transData.transform((point.x, point.y)), 5) for point, _ in wanted]
    marks = list(taken)
    for line in axes.lines:
        ends = axes.transData.transform(line.get_xydata())
        for start, end in itertools.pairwise(ends):
            taken += [_around(start + (end - start) * step / STEPS, 1.5) for step in range(STEPS)]
    for (point, colour), own in zip(wanted, marks, strict=True):
        tried = []
        for order, (dx, dy) in enumerate(_OFFSETS):
            text = axes.annotate(
                point.label,
                (point.x, point.y),
                (dx, dy),
                textcoords="offset points",
                ha="center" if dx == 0 else "left" if dx > 0 else "right",
                va="center" if dy == 0 else "bottom" if dy > 0 else "top",
                color=colour if colour == BLUE else MUTED,
                fontsize=8.5,
            )
            box = tuple(text.get_window_extent().extents)
            covered = sum(_overlap(box, other) for other in taken if other is not own)
            tried.append((covered, order, text, box))
        tried.sort(key=lambda one: one[:2])
        taken.append(tried[0][3])
        for _, _, text, _ in tried[1:]:
            text.remove()


def _around(place: Sequence[float], reach: float) -> tuple[float, float, float, float]:
    x, y = place
    return x - reach, y - reach, x + reach, y + reach


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


# Ratios against timm.

ONE_COLUMN = 5
"""Measurements that are drawn below each other; more are drawn in two columns."""

NAMES_WIDTH = 0.6
"""Room for the names beside the bars, as a share of the bars' room."""


def ratios_figure(records: Sequence[Measurement]) -> Figure | None:
    """How many times faster than timm, a group of bars a measurement; None if nothing was compared with it."""
    groups = [
        (f"{record.measure}: {_subject(record)}", bars)
        for record in records
        if "curve" not in record.measure and (bars := _bars(record))
    ]
    if not groups:
        return None
    columns = 1 if len(groups) <= ONE_COLUMN else 2
    parts = [groups[column::columns] for column in range(columns)]
    rows = max(sum(len(bars) + 1.5 for _, bars in part) for part in parts)
    figure, every_axes = _figure(9.5 if columns == 1 else 13, 1.2 + 0.2 * rows, columns)
    everything = [1.0, *(ratio for _, bars in groups for _, ratio, _ in bars)]
    low, high = min(everything) * 0.9, max(everything)
    for axes, part in zip(every_axes, parts, strict=True):
        _draw_bars(axes, part)
        axes.set_xlim(low, high * (high / low) ** NAMES_WIDTH)
        _log_axis(axes, "x")
        axes.set_ylim(rows - 1, -1)
        axes.set_yticks([])
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_xlabel("times faster than timm as a user gets it", color=INK)
    _caption(every_axes[0], records, "")
    return figure


def _draw_bars(axes: Any, groups: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> None:
    place = 0.0
    for label, bars in groups:
        beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "color": INK}
        axes.annotate(label, (1, place), fontsize=9, weight="bold", **beside)
        for number, (name, ratio, colour) in enumerate(bars, start=1):
            axes.barh(place + number, ratio - 1, left=1, height=0.75, color=colour)
            axes.annotate(f"{report.times(ratio)}  {name}", (max(ratio, 1), place + number), fontsize=8, **beside)
        place += len(bars) + 1.5


def _bars(record: Measurement) -> list[tuple[str, float, str]]:
    """The best peer and ours as created, optimized, and by the fastest engine: name, ratio, colour."""
    chosen = (
        (report.best_peer(record), ORANGE),
        (OURS, PALE_BLUE),
        (f"{OURS} optimized", LIGHT_BLUE),
        (report.best_engine(record), BLUE),
    )
    ratios = [
        (name, report.times_faster(record, name, BASELINE), colour) for name, colour in chosen if name != BASELINE
    ]
    return [
        (name.removeprefix(f"{OURS} "), ratio, colour) for name, ratio, colour in ratios if name and ratio is not None
    ]


def _subject(record: Measurement) -> str:
    variant = record.data["case"].get("variant")
    return record.subject.replace(variant, report.short(variant)) if variant else record.subject


# Cost curves.


def curve_figure(measure: str, records: Sequence[Measurement]) -> Figure | None:
    """Time an image against batch, resolution or variant, a line a contestant; None with fewer than two points."""
    key, across, up = CURVES[measure]
    ordered = sorted(records, key=_variant_order if key == "variant" else lambda record: record.data["case"][key])
    if len(ordered) < 2:
        return None
    figure, (axes,) = _figure(9.5, 5.2)
    places = [number if key == "variant" else record.data["case"][key] for number, record in enumerate(ordered)]
    names = list(dict.fromkeys(name for record in ordered for name in report.seconds_of(record)))
    for name in names:
        across_axis, milliseconds = [], []
        before = None
        for x, record in zip(places, ordered, strict=True):
            if name in report.seconds_of(record):
                case = record.data["case"]
                family = catalogue.find_variant(case["variant"]).family.title
                if before not in (None, family):  # no line from one family's largest to another's smallest
                    across_axis.append(math.nan)
                    milliseconds.append(math.nan)
                before = family
                across_axis.append(x)
                milliseconds.append(report.seconds_of(record)[name] / case["batch"] * 1e3)
        colour, line = STYLES.get(name, (MUTED, ":"))
        axes.plot(
            across_axis,
            milliseconds,
            color=colour,
            linestyle=line,
            marker="o",
            markersize=3.5,
            linewidth=1.8,
            label=name,
        )
    _log_axis(axes, "y")
    if key == "variant":
        labels = [f"{report.short(r.data['case']['variant'])}\n{r.data['case']['size']}" for r in ordered]
        axes.set_xticks(places, labels, fontsize=8.5)
    else:
        axes.set_xscale("log")
        axes.set_xticks(places, [str(place) for place in places], fontsize=8.5)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    case = ordered[0].data["case"]
    fixed = {
        "batch": f"{report.short(case['variant'])}, {case['size']} px",
        "size": f"{report.short(case['variant'])}, batch {case['batch']}",
        "variant": f"batch {case['batch']}, each at its own size in pixels",
    }
    _caption(axes, ordered, f"{fixed[key]}, {case['dtype']}")
    return figure


def _variant_order(record: Measurement) -> int:
    return list(catalogue.models()).index(record.data["case"]["variant"])


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
    """A logarithmic axis with plain numbers, at 1, 2 and 5 of each power of ten, or at more of a short one."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > SHORT else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _caption(axes: Any, records: Sequence[Measurement], more: str) -> None:
    dates = sorted({record.date for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    lines = [*([more] if more else []), f"{report.machine_of(records[0])}; {when}"]
    axes.set_title("\n".join(lines), loc="left", color=MUTED, fontsize=9)


def _saved(figure: Figure, path: Path) -> Path:
    with written_whole(path) as beside:
        figure.savefig(beside, format="png")
    return path
