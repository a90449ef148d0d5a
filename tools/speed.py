"""What the README shows of ``benchmarks/results.json``: tables, each with the command that measured it and the date."""

from collections.abc import Sequence
from pathlib import Path

from effnet_zoo.bench import report
from effnet_zoo.bench.results import Record, read
from tools.markdown import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
NOTHING = "Nothing has been measured yet: `effnet-zoo bench --measure {} --out benchmarks/results.json`."


def performance() -> str:
    """Everything but loading and deployment, a machine after the other."""
    records = [record for record in read(RESULTS) if record.measure not in ("loading", "deployment")]
    return _by_machine(records) or NOTHING.format("all")


def loading() -> str:
    """How long weights take into a model."""
    records = [record for record in read(RESULTS) if record.measure == "loading"]
    return _by_machine(records) or NOTHING.format("loading")


def deployment() -> str:
    """What exported and quantized files come to."""
    records = [record for record in read(RESULTS) if record.measure == "deployment"]
    return _by_machine(records) or NOTHING.format("deployment")


def profile() -> str:
    """Where a forward pass spends its time."""
    records = [record for record in read(RESULTS) if record.measure == "profile"]
    if not records:
        return NOTHING.format("profile")
    table = report.profile_table(records)
    machine = f"{report.machine_of(records[0])}; {report.versions_of(records)}"
    return f"{markdown_table(table.headings, table.rows)}\n\n{report.commands_of(records)}. Measured on: {machine}."


def _by_machine(records: Sequence[Record]) -> str:
    parts = []
    for group in report.by_machine(records):
        tables = _tables(group)
        if tables:
            parts += [*tables, f"Measured on: {report.machine_of(group[0])}; {report.versions_of(group)}."]
    return "\n\n".join(parts)


def _tables(records: Sequence[Record]) -> list[str]:
    """The tables for which there is anything, each with what is to be known below."""
    tables = []
    for measures, section in report.SECTIONS.items():
        some = [record for record in records if record.measure in measures]
        if some:
            table = section(some)
            below = " ".join([*table.below, f"{report.commands_of(some)}."])
            tables.append(f"{markdown_table(table.headings, table.rows)}\n\n{below}")
    return tables
