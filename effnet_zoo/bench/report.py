"""Measurements as tables: one in full for the terminal, and the few that the README shows. Nothing here needs torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effnet_zoo.bench.results import BASELINE, OURS, Measurement, library_of
from effnet_zoo.errors import UnknownNameError
from effnet_zoo.zoo import catalogue

MISSING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Headings and rows, and the lines below them."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: a measurement, and one of its contestants where each has a row."""

    measurement: Measurement
    name: str = ""

    @property
    def case(self) -> dict[str, Any]:
        """Return what was measured."""
        return dict(self.measurement.data["case"])

    @property
    def result(self) -> dict[str, Any]:
        """Return the contestant's figures."""
        return dict(self.measurement.data["results"][self.name])


Columns = Sequence[tuple[str, Callable[[Row], str]]]
"""Headings, each with what writes the text of a row below it."""

Who = str | Callable[[Measurement], str | None]
"""A contestant by its name, or the one that a function chooses."""


def _table(columns: Columns, rows: Iterable[Row], *below: str) -> Table:
    return Table(
        headings=tuple(heading for heading, _ in columns),
        rows=tuple(tuple(text(row) for _, text in columns) for row in rows),
        below=below,
    )


def _contestants(measurements: Iterable[Measurement]) -> Iterator[Row]:
    return (Row(one, name) for one in measurements for name in one.data["results"])


# What a measurement says.


def is_ours(name: str) -> bool:
    """Return whether a contestant is this package's."""
    return library_of(name) == OURS


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
    return best(measurement, lambda name: not is_ours(name))


def best_engine(measurement: Measurement) -> str | None:
    """Return the fastest engine of this package."""
    return best(measurement, lambda name: name.startswith(f"{OURS} engine "))


def times_faster(measurement: Measurement, name: str | None, than: str | None) -> float | None:
    """Return how many times faster one contestant's median is than another's, or None if one was not timed."""
    timed = seconds_of(measurement)
    if name is None or than is None or name not in timed or than not in timed:
        return None
    return timed[than] / timed[name]


def short(variant: str) -> str:
    """Return a variant's name as papers write it: ``B0``, ``V2-S``, ``Lite0``."""
    name = variant.removeprefix("effnet_zoo_")
    return name.capitalize() if name.startswith("lite") else name.upper().replace("_", "-")


def _task(row: Row) -> str:
    """Return the task in a few words: ``B0, 224 px, batch 8, bfloat16``."""
    case = row.case
    words = [short(case["variant"]), f"{case['size']} px", f"batch {case['batch']}"]
    return ", ".join([*words, *([case["dtype"]] if case["dtype"] != "float32" else [])])


def _by_task(measurement: Measurement) -> tuple[int, str, int, int]:
    case = measurement.data["case"]
    try:
        place = list(catalogue.models()).index(catalogue.find_variant(case["variant"]).name)
    except UnknownNameError:  # a file of results may be older than a name
        place = len(catalogue.models())
    return place, case["dtype"] != "float32", case["size"], case["batch"]


# Figures as text.


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Return three digits in seconds or milliseconds."""
    return f"{_three(seconds)} s" if seconds >= 1 else f"{_three(seconds * 1e3)} ms"


def spread(timing: Mapping[str, float]) -> str:
    """Return a median with the 10th and the 90th percentile: ``12.3 ms (11.9–12.8)``."""
    unit = 1.0 if timing["seconds"] >= 1 else 1e3
    return f"{duration(timing['seconds'])} ({_three(timing['p10'] * unit)}–{_three(timing['p90'] * unit)})"


def times(ratio: float | None) -> str:
    """Return a ratio as ``2.1 x``."""
    return MISSING if ratio is None else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def rate(key: str, value: float) -> str:
    """Return operations or bytes a second in billions."""
    return f"{value / 1e9:.0f} {'GB/s' if key == 'bytes_per_second' else 'GFLOP/s'}"


def megabytes(count: float) -> str:
    """Return bytes in millions."""
    return f"{_three(count / 1e6)} MB"


def agreement(result: Mapping[str, Any]) -> str:
    """Return on how many photos the label is the same, and the two highest float32 probabilities of the others."""
    others = [f"{photo} ({first:.1%} to {second:.1%})" for photo, (first, second) in result["others"].items()]
    return ", not ".join([f"{result['same_label']} of {result['photos']}", *others])


def _faster(who: Who, than: Who) -> Callable[[Row], str]:
    return lambda row: times(times_faster(row.measurement, _chosen(who, row), _chosen(than, row)))


def _milliseconds(who: Who) -> Callable[[Row], str]:
    return lambda row: _named(row, who, lambda name: _three(seconds_of(row.measurement)[name] * 1e3))


def _chosen(who: Who, row: Row) -> str | None:
    return who if isinstance(who, str) else who(row.measurement)


def _named(row: Row, who: Who, text: Callable[[str], str]) -> str:
    """Return a contestant's figure, with its name in brackets if it was chosen."""
    name = _chosen(who, row)
    if name is None or name not in row.measurement.data["results"]:
        return MISSING
    shown = name.removeprefix(f"{OURS} engine ").removeprefix("timm in ")
    return text(name) if isinstance(who, str) else f"{text(name)} ({shown})"


# One measurement in full.

_FIGURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "seconds": ("median (10th–90th percentile)", spread),
    "cold": ("cold", lambda result: spread(result["cold"])),
    "warm": ("warm", lambda result: spread(result["warm"])),
    "imports": ("of it imports", lambda result: duration(result["imports"])),
    "of_import_torch": ("of import torch", lambda result: times(result["of_import_torch"])),
    "images_per_second": ("images/s", lambda result: _three(result["images_per_second"])),
    "of_ceiling": ("of the ceiling", lambda result: f"{result['of_ceiling']:.0%}"),
    "operations_per_second": ("rate", lambda result: rate(*next(iter(result.items())))),
    "bytes_per_second": ("rate", lambda result: rate(*next(iter(result.items())))),
    "file_bytes": ("file", lambda result: megabytes(result["file_bytes"])),
    "making": ("made in", lambda result: duration(result["making"])),
    "same_label": ("same label", agreement),
    "error": ("relative error", lambda result: f"{result['error']:.1e}"),
    "saved_bytes": ("saved for backward", lambda result: megabytes(result["saved_bytes"])),
    "peak_bytes": ("on the GPU, at most", lambda result: megabytes(result["peak_bytes"])),
    "peak_over_weights": ("peak memory / weights", lambda result: f"{result['peak_over_weights']:.1f}"),
}
"""By a result's key, its heading and its text."""


def full_table(measurement: Measurement) -> Table:
    """Return a measurement in full: a row a contestant, and below who is not there and why."""
    if measurement.measure == "profile":
        return profile_table([measurement])
    data = measurement.data
    ratios = {label: by_name for label, by_name in data.get("ratios", {}).items() if by_name}
    found = {key for result in data["results"].values() for key in result}
    shown = dict.fromkeys(heading for key, (heading, _) in _FIGURES.items() if key in found)
    columns = [
        ("contestant", lambda row: row.name),
        *((heading, _figure(heading)) for heading in shown),
        *((f"x {label.partition(' (')[0]}", _ratio(by_name)) for label, by_name in ratios.items()),
    ]
    if notes := data.get("notes"):
        columns.append(("notes", lambda row: notes.get(row.name, "")))
    below = [label for label in ratios if " (" in label]
    below += [f"{kind}: {name}: {why}" for kind in ("absent", "refused") for name, why in data.get(kind, {}).items()]
    if limit := data.get("ceiling"):
        rates = [f"{name} {rate('bytes_per_second' if name == 'copy' else '', value)}" for name, value in limit.items()]
        below.append(f"ceiling: {', '.join(rates)}")
    return _table(columns, _contestants([measurement]), *below)


def _figure(heading: str) -> Callable[[Row], str]:
    figures = {key: text for key, (own, text) in _FIGURES.items() if own == heading}
    return lambda row: next((text(row.result) for key, text in figures.items() if key in row.result), MISSING)


def _ratio(ratios: Mapping[str, float]) -> Callable[[Row], str]:
    return lambda row: f"{ratios[row.name]:.2f}" if row.name in ratios else MISSING


# Many measurements, for the README.

Section = Callable[[Sequence[Measurement]], Table]


def forward_table(measurements: Sequence[Measurement]) -> Table:
    """Return latency and throughput: a row a task, in milliseconds."""
    columns: Columns = [
        ("ms a batch", _task),
        ("timm", _milliseconds(BASELINE)),
        ("timm channels_last", _milliseconds("timm channels_last")),
        ("best peer", _milliseconds(best_peer)),
        ("as created", _milliseconds(OURS)),
        ("optimized", _milliseconds(f"{OURS} optimized")),
        ("best engine", _milliseconds(best_engine)),
        ("as created / timm", _faster(OURS, BASELINE)),
        ("without `no_grad`", _faster(f"{OURS} recording", f"{BASELINE} recording")),
        ("optimized / as created", _faster(f"{OURS} optimized", OURS)),
        ("engine / best peer", _faster(best_engine, best_peer)),
        (
            "engine, of the ceiling",
            lambda row: (
                f"{row.measurement.data['results'][engine]['of_ceiling']:.0%}"
                if (engine := best_engine(row.measurement))
                else MISSING
            ),
        ),
    ]
    rows = map(Row, sorted(measurements, key=_by_task))
    return _table(columns, rows, *_widest(measurements), *_not_measured(measurements))


def training_table(measurements: Sequence[Measurement]) -> Table:
    """Return a training step: time, and the bytes it keeps."""
    columns: Columns = [
        ("training step", _task),
        ("", lambda row: f"{row.name} (best peer)" if row.name == best_peer(row.measurement) else row.name),
        ("ms", lambda row: _milliseconds(row.name)(row)),
        ("faster than timm", lambda row: _faster(row.name, BASELINE)(row)),
        ("saved for backward", lambda row: megabytes(row.result["saved_bytes"])),
    ]
    rows = [
        Row(one, name)
        for one in sorted(measurements, key=_by_task)
        for name in dict.fromkeys((BASELINE, best_peer(one), OURS, f"{BASELINE} checkpointed", f"{OURS} checkpointed"))
        if name and name in one.data["results"]
    ]
    return _table(columns, rows, *_widest(measurements), *_not_measured(measurements))


def files_table(measurements: Sequence[Measurement]) -> Table:
    """Return files to labels, in images a second."""

    def images(who: Who) -> Callable[[Row], str]:
        return lambda row: _named(
            row, who, lambda name: _three(row.measurement.data["results"][name]["images_per_second"])
        )

    columns: Columns = [
        ("images/s", lambda row: "{files} JPEGs of {width}x{height}, {workers} workers".format(**row.case)),
        ("timm", images(BASELINE)),
        ("best peer", images(best_peer)),
        ("effnet_zoo", images(OURS)),
        ("best engine", images(best_engine)),
        ("effnet_zoo / timm", _faster(OURS, BASELINE)),
        ("engine / timm", _faster(best_engine, BASELINE)),
    ]
    below = ("Who gives any file another label than timm is not listed.", *_widest(measurements))
    return _table(columns, map(Row, measurements), *below, *_not_measured(measurements))


def loading_table(measurements: Sequence[Measurement]) -> Table:
    """Return weights into a model, in fresh processes; without those of which one contestant's process died."""
    places = {"file": "a local file", "cache": "from the cache, hash checked"}

    def peak(row: Row, name: str) -> str:
        result = row.measurement.data["results"][name]
        return f"{result['peak_over_weights']:.1f} x" if "peak_over_weights" in result else MISSING

    columns: Columns = [
        (
            "model, file",
            lambda row: f"{short(row.case['variant'])}, {row.case['bytes'] / 1e6:.0f} MB, {places[row.case['place']]}",
        ),
        ("timm", lambda row: duration(seconds_of(row.measurement)[BASELINE])),
        ("effnet_zoo", lambda row: duration(seconds_of(row.measurement)[OURS])),
        ("faster", _faster(OURS, BASELINE)),
        ("peak memory, timm", lambda row: f"{peak(row, BASELINE)} the weights"),
        ("effnet_zoo", lambda row: peak(row, OURS)),
    ]
    both = [one for one in measurements if {BASELINE, OURS} <= one.data["results"].keys()]
    both.sort(key=lambda one: -one.data["case"]["bytes"])
    return _table(columns, map(Row, both), *_widest(measurements))


def imports_table(measurements: Sequence[Measurement]) -> Table:
    """Return what the import costs; without measurements of which one process died."""
    alone, both = "timm", "timm and effnet_zoo"

    def more(row: Row) -> str:
        timed = seconds_of(row.measurement)
        return f"{(timed[both] - timed[alone]) * 1e3:+.0f} ms"

    columns: Columns = [
        ("`import timm`", lambda row: duration(seconds_of(row.measurement)[alone])),
        ("`import timm, effnet_zoo`", lambda row: duration(seconds_of(row.measurement)[both])),
        ("more", more),
    ]
    rows = [Row(one) for one in measurements if {alone, both} <= one.data["results"].keys()]
    return _table(columns, rows, *_widest(measurements))


def starting_table(measurements: Sequence[Measurement]) -> Table:
    """Return a fresh process to its first logits."""
    columns: Columns = [
        ("start to first logits", lambda row: f"{short(row.case['variant'])}, {row.case['size']} px"),
        ("", lambda row: row.name),
        ("cold", lambda row: duration(row.result["cold"]["seconds"])),
        ("warm", lambda row: duration(row.result["warm"]["seconds"])),
        ("of it imports", lambda row: duration(row.result["imports"])),
        ("faster than timm, warm", lambda row: _faster(row.name, BASELINE)(row)),
    ]
    return _table(columns, _contestants(measurements), *_not_measured(measurements))


def command_table(measurements: Sequence[Measurement]) -> Table:
    """Return one photo by the command, beside the import of torch."""
    columns: Columns = [
        ("one photo by the command", lambda row: short(row.case["variant"])),
        ("", lambda row: f"`{row.name}`"),
        ("time", lambda row: spread(row.result)),
        ("of `import torch`", lambda row: times(row.result.get("of_import_torch"))),
    ]
    return _table(columns, _contestants(measurements), *_not_measured(measurements))


def agreement_table(measurements: Sequence[Measurement]) -> Table:
    """Return labels of real photos: a row a way to run the model, a column a dtype."""
    results = [row.result for row in _contestants(measurements)]
    cells = {(one["way"], one["dtype"]): f"{agreement(one)}; {one['error']:.0e}" for one in results}
    dtypes = tuple(dict.fromkeys(dtype for _, dtype in cells))
    return Table(
        headings=("photos with float32's label, error of the logits", *dtypes),
        rows=tuple(
            (way, *(cells.get((way, dtype), MISSING) for dtype in dtypes))
            for way in dict.fromkeys(way for way, _ in cells)
        ),
        below=_not_measured(measurements),
    )


def deployment_table(measurements: Sequence[Measurement]) -> Table:
    """Return exported and quantized files: a row a file and runtime."""
    *_, last = measurements
    (rival,) = last.data["ratios"]
    photos = next(iter(last.data["results"].values()))["photos"]
    columns: Columns = [
        ("{checkpoint}, {size} px, batch {batch}".format(**last.data["case"]), lambda row: row.name),
        ("file", lambda row: megabytes(row.result["file_bytes"])),
        ("made in", lambda row: duration(row.result["making"])),
        ("a batch", lambda row: duration(row.result["seconds"])),
        (f"against the {rival}", lambda row: times(next(iter(row.measurement.data["ratios"].values()))[row.name])),
        (f"same label, of {photos} photos", lambda row: f"{row.result['same_label'] / row.result['photos']:.1%}"),
        ("error of the logits", lambda row: f"{row.result['error']:.0e}"),
    ]
    return _table(columns, _contestants(measurements), *_not_measured(measurements))


def profile_table(measurements: Sequence[Measurement]) -> Table:
    """Return where the time goes: a row a kind of operation, a column a task and contestant, in milliseconds."""
    rows = list(_contestants(sorted(measurements, key=_by_task)))
    columns = [row.result["kinds"] for row in rows]
    kinds = dict.fromkeys(kind for column in columns for kind in column)
    return Table(
        headings=("ms a batch", *(f"{_task(row)}: {row.name}" for row in rows)),
        rows=(
            *((kind, *(_three(column.get(kind, 0.0) * 1e3) for column in columns)) for kind in kinds),
            ("all", *(_three(sum(column.values()) * 1e3) for column in columns)),
        ),
        below=_not_measured(measurements),
    )


SECTIONS: dict[tuple[str, ...], Section] = {
    ("latency", "throughput"): forward_table,
    ("training",): training_table,
    ("files",): files_table,
    ("starting",): starting_table,
    ("starting, command",): command_table,
    ("imports",): imports_table,
    ("agreement",): agreement_table,
    ("deployment",): deployment_table,
    ("loading",): loading_table,
}
"""What makes a table of the README, by the measures whose measurements it takes."""


def sections(measurements: Sequence[Measurement]) -> Iterator[tuple[list[Measurement], Table]]:
    """Yield the README's tables for which there is anything, each with the measurements in it."""
    for measures, section in SECTIONS.items():
        chosen = [one for one in measurements if _section_of(one) in measures]
        if chosen:
            yield chosen, section(chosen)


def _section_of(measurement: Measurement) -> str:
    """Return the measure; `starting` has two tables, as its cases are different."""
    return f"{measurement.measure}, command" if "photo" in measurement.data["case"] else measurement.measure


def _widest(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """Return how far the 10th and 90th percentile are from the median, at their furthest."""
    timings = [row.result for row in _contestants(measurements) if "p10" in row.result]
    if not timings:
        return ()
    low = min(timing["p10"] / timing["seconds"] for timing in timings) - 1
    high = max(timing["p90"] / timing["seconds"] for timing in timings) - 1
    return (f"Medians; the 10th and 90th percentile are within {low:+.0%} and {high:+.0%} of each.",)


def _not_measured(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """Return who was not timed, and why, each once."""
    listed = {
        f"{name} ({why})": None
        for one in measurements
        for kind in ("absent", "refused")
        for name, why in one.data.get(kind, {}).items()
    }
    return (f"Not measured: {'; '.join(listed)}.",) if listed else ()


# Where measurements come from.


def commands_of(measurements: Iterable[Measurement]) -> str:
    """Return the command lines and their dates, each once, as code in a sentence."""
    dates: dict[str, list[str]] = {}
    for one in measurements:
        dates.setdefault(one.command, []).append(one.date)
    return "; ".join(f"`{command}`, {span(days)}" for command, days in dates.items())


def span(dates: Sequence[str]) -> str:
    """Return the first and the last of some dates, or the only one."""
    return min(dates) if min(dates) == max(dates) else f"{min(dates)} to {max(dates)}"


def machine_of(measurement: Measurement) -> str:
    """Return the machine in one line."""
    facts = measurement.machine
    counts = [
        f"{facts[what]} {what if facts[what] != 1 else what.removesuffix('s')}" for what in ("processors", "threads")
    ]
    gpu = [facts["gpu"]] if "gpu" in facts else []
    return ", ".join([*gpu, facts["processor"], *counts, facts["instructions"], facts["system"]])


def versions_of(measurements: Iterable[Measurement]) -> str:
    """Return the versions in one line; two of one library where measurements differ."""
    found: dict[str, dict[str, None]] = {}
    for one in measurements:
        for name, version in one.versions.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())


def by_machine(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """Return measurements in groups by machine: figures of two machines do not belong in one table."""
    groups: dict[str, list[Measurement]] = {}
    for one in measurements:
        groups.setdefault(machine_of(one), []).append(one)
    return list(groups.values())
