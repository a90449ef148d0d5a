"""What the docs show of ``benchmarks/results.json``: tables, each with the command that measured it and the date."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo.bench.report import (
    MISSING,
    Table,
    agreement,
    best_engine,
    best_peer,
    by_machine,
    duration,
    machine_of,
    megabytes,
    seconds_of,
    short,
    span,
    spread,
    three_digits,
    times,
    times_faster,
)
from effnet_zoo.bench.results import BASELINE, OURS, Measurement, read_results
from effnet_zoo.errors import UnknownNameError
from effnet_zoo.zoo import catalogue
from tools.markdown import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
NOTHING = "Nothing has been measured yet: `effnet-zoo bench --measure {} --out benchmarks/results.json`."


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


def make_table(columns: Columns, rows: Iterable[Row], *below: str) -> Table:
    headings = tuple(heading for heading, _ in columns)
    return Table(headings=headings, rows=tuple(tuple(text(row) for _, text in columns) for row in rows), below=below)


def contestant_rows(measurements: Iterable[Measurement]) -> Iterator[Row]:
    return (Row(one, name) for one in measurements for name in one.data["results"])


def task_of(row: Row) -> str:
    """Return the task in a few words: ``B0, 224 px, batch 8, bfloat16``."""
    case = row.case
    words = [short(case["variant"]), f"{case['size']} px", f"batch {case['batch']}"]
    return ", ".join([*words, *([case["dtype"]] if case["dtype"] != "float32" else [])])


def performance() -> str:
    """Return the tables of all measures but loading and deployment, a machine after the other."""
    measured = [one for one in read_results(RESULTS) if one.measure not in ("loading", "deployment")]
    return _by_machine(measured) or NOTHING.format("all")


def loading() -> str:
    """Return how long weights take into a model."""
    return _by_machine(_of("loading")) or NOTHING.format("loading")


def deployment() -> str:
    """Return how exported and quantized files compare."""
    return _by_machine(_of("deployment")) or NOTHING.format("deployment")


def profile() -> str:
    """Return where a forward pass spends its time."""
    measured = _of("profile")
    if not measured:
        return NOTHING.format("profile")
    table = profile_table(list(contestant_rows(sorted(measured, key=by_task))))
    machine = f"{machine_of(measured[0])}; {versions_of(measured)}"
    return f"{markdown_table(table.headings, table.rows)}\n\n{commands_of(measured)}. Measured on: {machine}."


def profile_table(rows: Sequence[Row]) -> Table:
    """Return where the time goes: a row a kind of operation, a column a task and contestant, in milliseconds."""
    columns = [row.result["kinds"] for row in rows]
    kinds = dict.fromkeys(kind for column in columns for kind in column)
    by_kind = [(kind, [column.get(kind, 0.0) for column in columns]) for kind in kinds]
    by_kind.append(("all", [sum(column.values()) for column in columns]))
    return Table(
        headings=("ms a batch", *(f"{task_of(row)}: {row.name}" for row in rows)),
        rows=tuple((kind, *(three_digits(value * 1e3) for value in seconds)) for kind, seconds in by_kind),
    )


def _of(measure: str) -> list[Measurement]:
    return [one for one in read_results(RESULTS) if one.measure == measure]


def _by_machine(measurements: Sequence[Measurement]) -> str:
    """Return the tables of each machine, each with the lines that belong below it."""
    parts = []
    for group in by_machine(measurements):
        tables = [
            f"{markdown_table(table.headings, table.rows)}\n\n{' '.join([*table.below, commands_of(some)])}."
            for some, table in sections(group)
        ]
        if tables:
            parts += [*tables, f"Measured on: {machine_of(group[0])}; {versions_of(group)}."]
    return "\n\n".join(parts)


Who = str | Callable[[Measurement], str | None]
"""A contestant by its name, or the one that a function chooses."""


def _faster(who: Who, than: Who) -> Callable[[Row], str]:
    return lambda row: times(times_faster(row.measurement, _chosen(who, row), _chosen(than, row)))


def _milliseconds(who: Who) -> Callable[[Row], str]:
    return lambda row: _named(row, who, lambda name: three_digits(seconds_of(row.measurement)[name] * 1e3))


def _chosen(who: Who, row: Row) -> str | None:
    return who if isinstance(who, str) else who(row.measurement)


def _named(row: Row, who: Who, text: Callable[[str], str]) -> str:
    """Return a contestant's figure, with its name in brackets if it was chosen."""
    name = _chosen(who, row)
    if name is None or name not in row.measurement.data["results"]:
        return MISSING
    shown = name.removeprefix(f"{OURS} engine ").removeprefix("timm in ")
    return text(name) if isinstance(who, str) else f"{text(name)} ({shown})"


def by_task(measurement: Measurement) -> tuple[int, str, int, int]:
    """Return what measurements are sorted by: variant, dtype, size and batch."""
    case = measurement.data["case"]
    try:
        place = list(catalogue.models()).index(catalogue.find_variant(case["variant"]).name)
    except UnknownNameError:  # a file of results may be older than a name
        place = len(catalogue.models())
    return place, case["dtype"] != "float32", case["size"], case["batch"]


def not_measured(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """Return who was not timed, and why, each once."""
    listed = {
        f"{name} ({why})": None
        for one in measurements
        for kind in ("absent", "refused")
        for name, why in one.data.get(kind, {}).items()
    }
    return (f"Not measured: {'; '.join(listed)}.",) if listed else ()


# Many measurements, for the README.

Section = Callable[[Sequence[Measurement]], Table]


def forward_table(measurements: Sequence[Measurement]) -> Table:
    """Return latency and throughput: a row a task, in milliseconds."""
    columns: Columns = [
        ("ms a batch", task_of),
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
    rows = map(Row, sorted(measurements, key=by_task))
    return make_table(columns, rows, *_widest(measurements), *not_measured(measurements))


def training_table(measurements: Sequence[Measurement]) -> Table:
    """Return a training step: time, and the bytes it keeps."""
    columns: Columns = [
        ("training step", task_of),
        ("", lambda row: f"{row.name} (best peer)" if row.name == best_peer(row.measurement) else row.name),
        ("ms", lambda row: _milliseconds(row.name)(row)),
        ("faster than timm", lambda row: _faster(row.name, BASELINE)(row)),
        ("saved for backward", lambda row: megabytes(row.result["saved_bytes"])),
    ]
    rows = [
        Row(one, name)
        for one in sorted(measurements, key=by_task)
        for name in dict.fromkeys((BASELINE, best_peer(one), OURS, f"{BASELINE} checkpointed", f"{OURS} checkpointed"))
        if name and name in one.data["results"]
    ]
    return make_table(columns, rows, *_widest(measurements), *not_measured(measurements))


def files_table(measurements: Sequence[Measurement]) -> Table:
    """Return files to labels, in images a second."""

    def images(who: Who) -> Callable[[Row], str]:
        return lambda row: _named(
            row, who, lambda name: three_digits(row.measurement.data["results"][name]["images_per_second"])
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
    return make_table(columns, map(Row, measurements), *below, *not_measured(measurements))


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
    return make_table(columns, map(Row, both), *_widest(measurements))


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
    return make_table(columns, rows, *_widest(measurements))


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
    return make_table(columns, contestant_rows(measurements), *not_measured(measurements))


def command_table(measurements: Sequence[Measurement]) -> Table:
    """Return one photo by the command, beside the import of torch."""
    columns: Columns = [
        ("one photo by the command", lambda row: short(row.case["variant"])),
        ("", lambda row: f"`{row.name}`"),
        ("time", lambda row: spread(row.result)),
        ("of `import torch`", lambda row: times(row.result.get("of_import_torch"))),
    ]
    return make_table(columns, contestant_rows(measurements), *not_measured(measurements))


def agreement_table(measurements: Sequence[Measurement]) -> Table:
    """Return labels of real photos: a row a way to run the model, a column a dtype."""
    results = [row.result for row in contestant_rows(measurements)]
    cells = {(one["way"], one["dtype"]): f"{agreement(one)}; {one['error']:.0e}" for one in results}
    dtypes = tuple(dict.fromkeys(dtype for _, dtype in cells))
    return Table(
        headings=("photos with float32's label, error of the logits", *dtypes),
        rows=tuple(
            (way, *(cells.get((way, dtype), MISSING) for dtype in dtypes))
            for way in dict.fromkeys(way for way, _ in cells)
        ),
        below=not_measured(measurements),
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
    return make_table(columns, contestant_rows(measurements), *not_measured(measurements))


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
    timings = [row.result for row in contestant_rows(measurements) if "p10" in row.result]
    if not timings:
        return ()
    low = min(timing["p10"] / timing["seconds"] for timing in timings) - 1
    high = max(timing["p90"] / timing["seconds"] for timing in timings) - 1
    return (f"Medians; the 10th and 90th percentile are within {low:+.0%} and {high:+.0%} of each.",)


def commands_of(measurements: Iterable[Measurement]) -> str:
    """Return the command lines and their dates, each once, as code in a sentence."""
    dates: dict[str, list[str]] = {}
    for one in measurements:
        dates.setdefault(one.command, []).append(one.date)
    return "; ".join(f"`{command}`, {span(days)}" for command, days in dates.items())


def versions_of(measurements: Iterable[Measurement]) -> str:
    """Return the versions in one line; two of one library where measurements differ."""
    found: dict[str, dict[str, None]] = {}
    for one in measurements:
        for name, version in one.versions.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())
