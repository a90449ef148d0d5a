"""``effnet-zoo bench``"""

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_zoo.atomic_io import check_destination
from effnet_zoo.bench.settings import MEASURES, QUICK, Settings, all_measures, processors
from effnet_zoo.cli.output import AsJson, print_json_list, print_rows
from effnet_zoo.errors import EffnetZooError, UnknownNameError, quoted
from effnet_zoo.zoo import catalogue

if TYPE_CHECKING:
    from effnet_zoo.bench.results import Measurement
    from effnet_zoo.bench.suite import Step

DEFAULT_VARIANTS = ("effnet_zoo_b0",)


def bench(
    variants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VARIANT...]", help="Variants; B0 by default.", show_default=False),
    ] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            help=f"{', '.join(MEASURES)}, or all; {', '.join(QUICK)} by default.",
            show_default=False,
        ),
    ] = None,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="Images of a batch, for throughput; 8 by default.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many turns every contestant has.")] = 10,
    size: Annotated[
        int | None,
        typer.Option(min=32, help="Side of the images in pixels; each variant's own by default.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or, on cuda, float16.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compiled", help="Also what torch.compile builds, in minutes.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of `files`; one for each processor by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A JSON file, into which each result is merged at once.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures of these results and --out's.", show_default=False),
    ] = None,
) -> None:
    """Time this package beside timm and its other peers: same weights, same input, outputs compared before anything.

    effnet-zoo bench

    effnet-zoo bench effnet_zoo_b0 effnet_zoo_v2_s --measure throughput --batch 8 --batch 32 --dtype bfloat16

    effnet-zoo bench --measure all --out results.json --plot pictures   # hours; what is measured stays if interrupted

    effnet-zoo bench --device cuda --dtype float16 --json
    """
    wanted = measures or list(QUICK)
    settings = Settings(
        variants=tuple(dict.fromkeys(catalogue.find_variant(name).name for name in variants or DEFAULT_VARIANTS)),
        measures=tuple(dict.fromkeys(all_measures(device) if "all" in wanted else wanted)),
        batches=tuple(dict.fromkeys(batches or [8])),
        rounds=rounds,
        size=size,
        device=device,
        dtype=dtype,
        compiled=compiled,
        workers=workers or processors(),
        command=shlex.join(["effnet-zoo", *sys.argv[1:]]),
    )
    older = _check_places(settings, out, plot)
    from effnet_zoo.bench import suite

    steps = suite.steps(settings)
    failures: list[str] = []
    made: list[Measurement] = []
    with _temporary_engine_cache():
        measurements = _measurements(steps, settings, out, made, failures)
        if as_json:
            print_json_list(one.as_plain() for one in measurements)
        else:
            for one in measurements:
                _show(one)
    if plot:
        from effnet_zoo.bench.plot import save_pictures
        from effnet_zoo.bench.results import merged

        for path in save_pictures(merged(older, made), plot):
            typer.echo(f"wrote {path}", err=as_json)
    if failures:
        typer.echo(f"effnet-zoo: {len(failures)} could not be measured", err=True)
        raise typer.Exit(1)


def _check_places(settings: Settings, out: Path | None, plot: Path | None) -> list["Measurement"]:
    """Return what `out` holds already, after everything is checked that could stop the run later.

    Raises:
        InputError: If a place cannot be written to.
        MissingExtraError: If pictures are wanted, and matplotlib is not installed.
        UnknownNameError: If this machine does not have the device.
    """
    older: list[Measurement] = []
    if out:
        from effnet_zoo.bench.results import read_results

        older = read_results(out)
        check_destination(out)
    if plot:
        check_destination(plot / "ratios.png")
        from effnet_zoo.bench import plot as drawing  # noqa: F401
    if settings.device != "cpu":
        from effnet_zoo.network.devices import devices

        if settings.device not in devices():
            raise UnknownNameError(
                f"no device {quoted(settings.device)} on this machine: expected {' or '.join(devices())}"
            )
    return older


def _measurements(
    steps: "list[Step]", settings: Settings, out: Path | None, made: "list[Measurement]", failures: list[str]
) -> "Iterator[Measurement]":
    """Yield a measurement for each step, which is kept at once. A step that fails does not stop the others."""
    from effnet_zoo.bench import suite
    from effnet_zoo.bench.results import merge_results

    for number, step in enumerate(steps, start=1):
        # No bar: the thread that draws one would be measured too.
        if sys.stderr.isatty():
            typer.echo(f"{number} of {len(steps)}: {step.measure}: {step.subject}", err=True)
        try:
            measurement = suite.make_measurement(step, settings)
        except EffnetZooError as error:
            failures.append(str(error))
            typer.echo(f"effnet-zoo: {step.measure}: {step.subject}: {error}", err=True)
            continue
        if MEASURES[step.measure].in_processes:  # where a process died, the figures of the others stay
            for who, reason in measurement.data.get("refused", {}).items():
                failures.append(reason)
                typer.echo(f"effnet-zoo: {step.measure}: {step.subject}: {who}: {reason}", err=True)
        made.append(measurement)
        if out:
            merge_results(out, [measurement])
        yield measurement


@contextlib.contextmanager
def _temporary_engine_cache() -> Iterator[None]:
    """Set up a cache of engines that is deleted in the end: those of drawn weights are of no use to anyone."""
    name = "EFFNET_ZOO_HOME"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as home:
        os.environ[name] = home
        try:
            yield
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def _show(measurement: "Measurement") -> None:
    from effnet_zoo.bench.report import full_table

    found = full_table(measurement)
    typer.echo(measurement.key)
    print_rows(found.headings, found.rows, left=("contestant", "notes"))
    for line in (*found.below, ""):
        typer.echo(line)
