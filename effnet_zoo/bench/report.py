"""Records as tables: one a measurement for the terminal, and the few that the README shows. None needs torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effnet_zoo.bench.results import Record
from effnet_zoo.errors import UnknownNameError
from effnet_zoo.zoo import catalogue

OURS = "effnet_zoo"
BASELINE = "timm"
BEST_PEER = "best peer"

MISSING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Headings and rows, and the lines below them."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


# What a record says.


def is_ours(name: str) -> bool:
    """Whether a contestant is this package's."""
    return name.split()[0] == OURS


def seconds_of(record: Record) -> dict[str, float]:
    """The median of everyone who was timed; where there is a cold and a warm one, the warm."""
    timings = {name: result.get("warm", result) for name, result in record.data["results"].items()}
    return {name: timing["seconds"] for name, timing in timings.items() if "seconds" in timing}


def best(record: Record, wanted: Callable[[str], bool]) -> str | None:
    """The fastest of those whose name is wanted."""
    timed = {name: seconds for name, seconds in seconds_of(record).items() if wanted(name)}
    return min(timed, key=timed.__getitem__, default=None)


def best_peer(record: Record) -> str | None:
    """The fastest that is not ours."""
    return best(record, lambda name: not is_ours(name))


def best_engine(record: Record) -> str | None:
    """The fastest engine of ours."""
    return best(record, lambda name: name.startswith(f"{OURS} engine "))


def times_faster(record: Record, name: str | None, than: str | None) -> float | None:
    """How many times faster one contestant's median is than another's, if both were timed."""
    timed = seconds_of(record)
    if name is None or than is None or name not in timed or than not in timed:
        return None
    return timed[than] / timed[name]


def case_of(record: Record) -> str:
    """The case in a few words: ``B0, 224 px, batch 8, bfloat16``."""
    case = record.data["case"]
    words = [short(case["variant"]), f"{case['size']} px", f"batch {case['batch']}"]
    return ", ".join([*words, *([case["dtype"]] if case["dtype"] != "float32" else [])])


def short(variant: str) -> str:
    """A variant as papers call it: ``B0``, ``V2-S``, ``Lite0``."""
    name = variant.removeprefix("effnet_zoo_")
    if name.startswith("lite"):
        return name.capitalize()
    return name.upper().replace("_", "-")


# Figures as text.


def duration(seconds: float) -> str:
    """Three digits in seconds or milliseconds."""
    return f"{_three(seconds)} s" if seconds >= 1 else f"{_three(seconds * 1e3)} ms"


def spread(timing: Mapping[str, float]) -> str:
    """A median with the 10th and the 90th percentile: ``12.3 ms (11.9–12.8)``."""
    unit = 1.0 if timing["seconds"] >= 1 else 1e3
    return f"{duration(timing['seconds'])} ({_three(timing['p10'] * unit)}–{_three(timing['p90'] * unit)})"


def times(ratio: float | None) -> str:
    """A ratio: ``2.1 x``."""
    return MISSING if ratio is None else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def rate(result: Mapping[str, float]) -> str:
    """Operations or bytes a second."""
    if "bytes_per_second" in result:
        return f"{result['bytes_per_second'] / 1e9:.0f} GB/s"
    return f"{result['operations_per_second'] / 1e9:.0f} GFLOP/s"


def megabytes(count: float) -> str:
    """Bytes in millions."""
    return f"{_three(count / 1e6)} MB"


def agreement(result: Mapping[str, Any]) -> str:
    """On how many photos the label is the same, and on which it is not, where float32 was how undecided."""
    others = [f"{photo} ({first:.1%} to {second:.1%})" for photo, (first, second) in result["others"].items()]
    return ", not ".join([f"{result['same_label']} of {result['photos']}", *others])


def _peak(result: Mapping[str, Any]) -> str:
    """What a process took at its most, in weights; it is measured only where /proc tells it."""
    return f"{result['peak_over_weights']:.1f} x" if "peak_over_weights" in result else MISSING


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# One record, for the terminal.

_COLUMNS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "seconds": ("median (10th–90th percentile)", spread),
    "cold": ("cold", lambda result: spread(result["cold"])),
    "warm": ("warm", lambda result: spread(result["warm"])),
    "imports": ("of it imports", lambda result: duration(result["imports"])),
    "images_per_second": ("images/s", lambda result: _three(result["images_per_second"])),
    "of_ceiling": ("of the ceiling", lambda result: f"{result['of_ceiling']:.0%}"),
    "operations_per_second": ("rate", rate),
    "bytes_per_second": ("rate", rate),
    "file_bytes": ("file", lambda result: megabytes(result["file_bytes"])),
    "making": ("made in", lambda result: duration(result["making"])),
    "same_label": ("same label", agreement),
    "error": ("relative error", lambda result: f"{result['error']:.1e}"),
    "saved_bytes": ("saved for backward", lambda result: megabytes(result["saved_bytes"])),
    "peak_bytes": ("on the GPU, at most", lambda result: megabytes(result["peak_bytes"])),
    "peak_over_weights": ("peak memory / weights", lambda result: f"{result['peak_over_weights']:.1f}"),
}
"""By a result's key, what it is called and how it is written."""


def table(record: Record) -> Table:
    """A measurement in full: a row a contestant, and below who is not there and why."""
    if record.measure == "profile":
        return profile_table([record])
    data = record.data
    results: dict[str, dict[str, Any]] = data["results"]
    shown = {
        heading: (key, text)
        for key, (heading, text) in _COLUMNS.items()
        if any(key in result for result in results.values())
    }
    ratios = {label: by_name for label, by_name in data.get("ratios", {}).items() if by_name}
    notes = data.get("notes", {})
    headings = ("contestant", *shown, *(f"x {_without_name(label)}" for label in ratios), *(["notes"] if notes else []))
    rows = []
    for name, result in results.items():
        row = [name]
        for heading in shown:
            keys = [(key, text) for key, (named, text) in _COLUMNS.items() if named == heading and key in result]
            row += [text(result) for _, text in keys] or [MISSING]
        row += [f"{by_name[name]:.2f}" if name in by_name else MISSING for by_name in ratios.values()]
        rows.append((*row, *([notes.get(name, "")] if notes else [])))
    below = [label for label in ratios if label != _without_name(label)]
    below += [f"absent: {name}: {why}" for name, why in data.get("absent", {}).items()]
    below += [f"refused: {name}: {why}" for name, why in data.get("refused", {}).items()]
    if limit := data.get("ceiling"):
        below.append(f"ceiling: {ceiling_text(limit)}")
    return Table(headings=headings, rows=tuple(rows), below=tuple(below))


def ceiling_text(limit: Mapping[str, float]) -> str:
    """A machine's ceiling in one line."""
    names = {"copy": "bytes_per_second"}
    return ", ".join(
        f"{name} {rate({names.get(name, 'operations_per_second'): value})}" for name, value in limit.items()
    )


def _without_name(label: str) -> str:
    return label.partition(" (")[0]


# Many records, for the README.

Section = Callable[[Sequence[Record]], Table]


def forward_table(records: Sequence[Record]) -> Table:
    """Latency and throughput: a row a case, in milliseconds."""
    rows = []
    for record in sorted(records, key=_by_case):
        peer, engine = best_peer(record), best_engine(record)
        created, optimized = OURS, f"{OURS} optimized"
        rows.append(
            (
                case_of(record),
                *(_milliseconds(record, name) for name in (BASELINE, "timm channels_last")),
                _milliseconds(record, peer, named=True),
                *(_milliseconds(record, name) for name in (created, optimized)),
                _milliseconds(record, engine, named=True),
                times(times_faster(record, created, BASELINE)),
                times(times_faster(record, f"{OURS} recording", f"{BASELINE} recording")),
                times(times_faster(record, optimized, created)),
                times(times_faster(record, engine, peer)),
                f"{record.data['results'][engine]['of_ceiling']:.0%}" if engine else MISSING,
            )
        )
    headings = (
        "ms a batch",
        "timm",
        "timm channels_last",
        "best peer",
        "as created",
        "optimized",
        "best engine",
        "as created / timm",
        "without `no_grad`",
        "optimized / as created",
        "engine / best peer",
        "engine, of the ceiling",
    )
    return Table(headings=headings, rows=tuple(rows), below=(*_widest(records), *_unlisted(records)))


def training_table(records: Sequence[Record]) -> Table:
    """A training step: time, and the bytes it keeps."""
    rows = []
    for record in sorted(records, key=_by_case):
        results = record.data["results"]
        peer = best_peer(record)
        shown = (BASELINE, peer, OURS, f"{BASELINE} checkpointed", f"{OURS} checkpointed")
        rows += [
            (
                case_of(record),
                f"{name} (best peer)" if name == peer else name,
                _milliseconds(record, name),
                times(times_faster(record, name, BASELINE)),
                megabytes(results[name]["saved_bytes"]),
            )
            for name in dict.fromkeys(shown)
            if name is not None and name in results
        ]
    headings = ("training step", "", "ms", "faster than timm", "saved for backward")
    return Table(headings=headings, rows=tuple(rows), below=(*_widest(records), *_unlisted(records)))


def files_table(records: Sequence[Record]) -> Table:
    """Files to labels, in images a second."""
    rows = []
    for record in records:
        case, results = record.data["case"], record.data["results"]
        engine = best_engine(record)
        rows.append(
            (
                f"{case['files']} JPEGs of {case['width']}x{case['height']}, {case['workers']} workers",
                *(
                    f"{_three(results[name]['images_per_second'])}{_in_brackets(name, named)}"
                    if name in results
                    else MISSING
                    for name, named in (
                        (BASELINE, False),
                        (best_peer(record), True),
                        (OURS, False),
                        (engine, True),
                    )
                ),
                *(times(times_faster(record, name, BASELINE)) for name in (OURS, engine)),
            )
        )
    headings = (
        "images/s",
        "timm",
        "best peer",
        "effnet_zoo",
        "best engine",
        "effnet_zoo / timm",
        "engine / timm",
    )
    below = ("Who gives any file another label than timm is not listed.", *_widest(records), *_unlisted(records))
    return Table(headings=headings, rows=tuple(rows), below=below)


def loading_table(records: Sequence[Record]) -> Table:
    """Weights into a model, in fresh processes."""
    places = {"file": "a local file", "cache": "from the cache, hash checked"}
    rows = []
    for record in sorted(records, key=lambda record: -record.data["case"]["bytes"]):
        case, results = record.data["case"], record.data["results"]
        if not {BASELINE, OURS} <= results.keys():  # a process of one of them died: there is nothing to compare
            continue
        rows.append(
            (
                f"{short(case['variant'])}, {case['bytes'] / 1e6:.0f} MB, {places[case['place']]}",
                *(duration(results[name]["seconds"]) for name in (BASELINE, OURS)),
                times(times_faster(record, OURS, BASELINE)),
                f"{_peak(results[BASELINE])} the weights",
                _peak(results[OURS]),
            )
        )
    headings = ("model, file", "timm", "effnet_zoo", "faster", "peak memory, timm", "effnet_zoo")
    return Table(headings=headings, rows=tuple(rows), below=_widest(records))


def imports_table(records: Sequence[Record]) -> Table:
    """What the import costs."""
    rows = []
    for record in records:
        timed = seconds_of(record)
        if len(timed) < 2:  # a process of one of them died: there is nothing to compare
            continue
        alone, both = timed["timm"], timed["timm and effnet_zoo"]
        rows.append((duration(alone), duration(both), f"{(both - alone) * 1e3:+.0f} ms"))
    headings = ("`import timm`", "`import timm, effnet_zoo`", "more")
    return Table(headings=headings, rows=tuple(rows), below=_widest(records))


def starting_table(records: Sequence[Record]) -> Table:
    """A fresh process to its first logits."""
    rows = []
    for record in records:
        case = record.data["case"]
        for name, result in record.data["results"].items():
            rows.append(
                (
                    f"{short(case['variant'])}, {case['size']} px",
                    name,
                    duration(result["cold"]["seconds"]),
                    duration(result["warm"]["seconds"]),
                    duration(result["imports"]),
                    times(times_faster(record, name, BASELINE)),
                )
            )
    headings = ("start to first logits", "", "cold", "warm", "of it imports", "faster than timm, warm")
    return Table(headings=headings, rows=tuple(rows), below=_unlisted(records))


def agreement_table(records: Sequence[Record]) -> Table:
    """Labels of real photos: a row a way, a column a dtype."""
    results = [result for record in records for result in record.data["results"].values()]
    dtypes = tuple(dict.fromkeys(result["dtype"] for result in results))
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        cell = f"{agreement(result)}; {result['error']:.0e}"
        rows.setdefault(result["way"], {})[result["dtype"]] = cell
    return Table(
        headings=("photos with float32's label, error of the logits", *dtypes),
        rows=tuple((way, *(cells.get(dtype, MISSING) for dtype in dtypes)) for way, cells in rows.items()),
        below=_unlisted(records),
    )


def deployment_table(records: Sequence[Record]) -> Table:
    """Exported and quantized files: a row a file and runtime."""
    rows = []
    for record in records:
        case, results = record.data["case"], record.data["results"]
        ((label, ratios),) = record.data["ratios"].items()
        for name, result in results.items():
            rows.append(
                (
                    name,
                    megabytes(result["file_bytes"]),
                    duration(result["making"]),
                    duration(result["seconds"]),
                    times(ratios[name]),
                    f"{result['same_label'] / result['photos']:.1%}",
                    f"{result['error']:.0e}",
                )
            )
        headings = (
            f"{case['checkpoint']}, {case['size']} px, batch {case['batch']}",
            "file",
            "made in",
            "a batch",
            f"against the {label}",
            f"same label, of {result['photos']} photos",
            "error of the logits",
        )
    return Table(headings=headings, rows=tuple(rows), below=_unlisted(records))


def profile_table(records: Sequence[Record]) -> Table:
    """Where the time goes: a row a kind of operation, a column a case and contestant, in milliseconds."""
    columns = {
        f"{case_of(record)}: {name}": result["kinds"]
        for record in sorted(records, key=_by_case)
        for name, result in record.data["results"].items()
    }
    kinds = dict.fromkeys(kind for column in columns.values() for kind in column)
    rows = [(kind, *(_three(column.get(kind, 0.0) * 1e3) for column in columns.values())) for kind in kinds]
    total = ("all", *(_three(sum(column.values()) * 1e3) for column in columns.values()))
    return Table(headings=("ms a batch", *columns), rows=(*rows, total), below=_unlisted(records))


SECTIONS: dict[tuple[str, ...], Section] = {
    ("latency", "throughput"): forward_table,
    ("training",): training_table,
    ("files",): files_table,
    ("starting",): starting_table,
    ("imports",): imports_table,
    ("agreement",): agreement_table,
    ("deployment",): deployment_table,
    ("loading",): loading_table,
}
"""By the measures whose records it takes, what makes a table of the README."""


def _by_case(record: Record) -> tuple[int, str, int, int]:
    case = record.data["case"]
    try:
        place = list(catalogue.models()).index(catalogue.find_variant(case["variant"]).name)
    except UnknownNameError:  # a file of results may be older than a name
        place = len(catalogue.models())
    return place, case["dtype"] != "float32", case["size"], case["batch"]


def _milliseconds(record: Record, name: str | None, *, named: bool = False) -> str:
    seconds = seconds_of(record).get(name or "")
    return MISSING if seconds is None or name is None else f"{_three(seconds * 1e3)}{_in_brackets(name, named)}"


def _in_brackets(name: str | None, wanted: bool) -> str:
    if not wanted or name is None:
        return ""
    return f" ({name.removeprefix(f'{OURS} engine ').removeprefix('timm in ')})"


def _widest(records: Iterable[Record]) -> tuple[str, ...]:
    """How far the 10th and 90th percentile are from the median, at their furthest."""
    timings = [r for record in records for r in record.data["results"].values() if "p10" in r]
    if not timings:
        return ()
    low = min(timing["p10"] / timing["seconds"] for timing in timings) - 1
    high = max(timing["p90"] / timing["seconds"] for timing in timings) - 1
    return (f"Medians; the 10th and 90th percentile are within {low:+.0%} and {high:+.0%} of each.",)


def _unlisted(records: Iterable[Record]) -> tuple[str, ...]:
    """Who was not timed, and why, each said once."""
    said = {
        f"{name} ({why})": None
        for record in records
        for kind in ("absent", "refused")
        for name, why in record.data.get(kind, {}).items()
    }
    return (f"Not measured: {'; '.join(said)}.",) if said else ()


def commands_of(records: Iterable[Record]) -> str:
    """What was typed, and when, each once: code in a sentence."""
    typed: dict[str, list[str]] = {}
    for record in records:
        typed.setdefault(record.command, []).append(record.date)
    return "; ".join(f"`{command}`, {_span(dates)}" for command, dates in typed.items())


def machine_of(record: Record) -> str:
    """The machine in one line."""
    facts = record.machine
    words = [facts["gpu"]] if "gpu" in facts else []
    words += [facts["processor"], *(_counted(facts[what], what) for what in ("processors", "threads"))]
    return ", ".join([*words, facts["instructions"], facts["system"]])


def _counted(number: int, what: str) -> str:
    return f"{number} {what if number != 1 else what.removesuffix('s')}"


def versions_of(records: Iterable[Record]) -> str:
    """The versions in one line; two of one library where records differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.versions.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())


def by_machine(records: Iterable[Record]) -> list[list[Record]]:
    """Records apart where the machines are: their figures do not belong in one table."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(machine_of(record), []).append(record)
    return list(groups.values())


def _span(dates: Sequence[str]) -> str:
    return min(dates) if min(dates) == max(dates) else f"{min(dates)} to {max(dates)}"
