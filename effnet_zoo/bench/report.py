"""What a measurement says: its figures as text, and a table of it in full. Nothing here needs torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effnet_zoo.bench.results import OURS, Measurement, library_of

MISSING = "–"

BLUE, LIGHT_BLUE, PALE_BLUE, GREY, ORANGE, BROWN = "#2a6fb0", "#6ea8dc", "#b5d3ee", "#9aa1ac", "#d9822b", "#8a4b08"

CURVE_STYLES = {
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
"""Who takes part in curves, with colour and line: ours blue, timm grey, its exports brown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Headings and rows, and the lines below them."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


# What a measurement says.


def seconds_of(measurement: Measurement) -> dict[str, float]:
    """Return the median of every contestant that was timed; the warm one of a cold and a warm one."""
    timings = {name: result.get("warm", result) for name, result in measurement.data["results"].items()}
    return {name: timing["seconds"] for name, timing in timings.items() if "seconds" in timing}


def best(measurement: Measurement, wanted: Callable[[str], bool]) -> str | None:
    """Return the fastest of the contestants whose name is wanted."""
    timed = {name: seconds for name, seconds in seconds_of(measurement).items() if wanted(name)}
    return min(timed, key=timed.__getitem__, default=None)


def best_peer(measurement: Measurement) -> str | None:
    """Return the fastest contestant that is not this package's."""
    return best(measurement, lambda name: library_of(name) != OURS)


def best_engine(measurement: Measurement) -> str | None:
    """Return the fastest engine of this package."""
    return best(measurement, lambda name: name.startswith(f"{OURS} engine "))


def times_faster(measurement: Measurement, name: str | None, than: str | None) -> float | None:
    """Return how many times faster one contestant's median is than another's, or None if one was not timed."""
    timed = seconds_of(measurement)
    return timed[than] / timed[name] if name in timed and than in timed else None


def short(variant: str) -> str:
    """Return a variant's name as papers write it: ``B0``, ``V2-S``, ``Lite0``."""
    name = variant.removeprefix("effnet_zoo_")
    return name.capitalize() if name.startswith("lite") else name.upper().replace("_", "-")


def machine_of(measurement: Measurement) -> str:
    """Return the machine in one line."""
    facts = measurement.machine
    counts = [f"{facts[what]} {what[:-1] if facts[what] == 1 else what}" for what in ("processors", "threads")]
    gpu = [facts["gpu"]] if "gpu" in facts else []
    return ", ".join([*gpu, facts["processor"], *counts, facts["instructions"], facts["system"]])


def by_machine(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """Return measurements in groups by machine: figures of two machines do not belong in one table."""
    groups: dict[str, list[Measurement]] = {}
    for one in measurements:
        groups.setdefault(machine_of(one), []).append(one)
    return list(groups.values())


# Figures as text.


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Return three digits in seconds or milliseconds."""
    return f"{three_digits(seconds)} s" if seconds >= 1 else f"{three_digits(seconds * 1e3)} ms"


def spread(timing: Mapping[str, float]) -> str:
    """Return a median with the 10th and the 90th percentile: ``12.3 ms (11.9–12.8)``."""
    unit = 1.0 if timing["seconds"] >= 1 else 1e3
    return f"{duration(timing['seconds'])} ({three_digits(timing['p10'] * unit)}–{three_digits(timing['p90'] * unit)})"


def times(ratio: float | None) -> str:
    """Return a ratio as ``2.1 x``."""
    return MISSING if ratio is None else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def megabytes(count: float) -> str:
    """Return bytes in millions."""
    return f"{three_digits(count / 1e6)} MB"


def agreement(result: Mapping[str, Any]) -> str:
    """Return on how many photos the label is the same, and the two highest float32 probabilities of the others."""
    others = [f"{photo} ({first:.1%} to {second:.1%})" for photo, (first, second) in result["others"].items()]
    return ", not ".join([f"{result['same_label']} of {result['photos']}", *others])


def span(dates: Sequence[str]) -> str:
    """Return the first and the last of some dates, or the only one."""
    return min(dates) if min(dates) == max(dates) else f"{min(dates)} to {max(dates)}"


# One measurement in full.

_FIGURES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "seconds": ("median (10th–90th percentile)", spread),
    "cold": ("cold", spread),
    "warm": ("warm", spread),
    "imports": ("of it imports", duration),
    "of_import_torch": ("of import torch", times),
    "images_per_second": ("images/s", three_digits),
    "of_ceiling": ("of the ceiling", "{:.0%}".format),
    "operations_per_second": ("rate", lambda rate: f"{rate / 1e9:.0f} GFLOP/s"),
    "bytes_per_second": ("rate", lambda rate: f"{rate / 1e9:.0f} GB/s"),
    "file_bytes": ("file", megabytes),
    "making": ("made in", duration),
    "same_label": ("same label", agreement),
    "error": ("relative error", "{:.1e}".format),
    "saved_bytes": ("saved for backward", megabytes),
    "peak_bytes": ("on the GPU, at most", megabytes),
    "peak_over_weights": ("peak memory / weights", "{:.1f}".format),
}
"""By a result's key, its heading and its text."""

_OF_RESULT = ("seconds", "same_label")
"""Keys whose text is made of the whole result."""


def full_table(measurement: Measurement) -> Table:
    """Return a measurement in full: a row a contestant, and below who is not there and why."""
    data = measurement.data
    ratios = {label: by_name for label, by_name in data.get("ratios", {}).items() if by_name}
    rows = []
    for name, result in data["results"].items():
        row = {"contestant": name}
        for key, (heading, text) in _FIGURES.items():
            if key in result:
                row[heading] = text(result if key in _OF_RESULT else result[key])
        if kinds := result.get("kinds"):
            row |= {kind: duration(seconds) for kind, seconds in {**kinds, "all": sum(kinds.values())}.items()}
        for label, by_name in ratios.items():
            row[f"x {label.partition(' (')[0]}"] = f"{by_name[name]:.2f}" if name in by_name else MISSING
        if data.get("notes"):
            row["notes"] = data["notes"].get(name, "")
        rows.append(row)
    below = [label for label in ratios if " (" in label]
    below += [f"{kind}: {name}: {why}" for kind in ("absent", "refused") for name, why in data.get(kind, {}).items()]
    if limit := data.get("ceiling"):
        rates = [f"{name} {rate / 1e9:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, rate in limit.items()]
        below.append(f"ceiling: {', '.join(rates)}")
    headings = tuple(dict.fromkeys(heading for row in sorted(rows, key=len, reverse=True) for heading in row))
    cells = tuple(tuple(row.get(heading, MISSING) for heading in headings) for row in rows)
    return Table(headings=headings, rows=cells, below=tuple(below))
