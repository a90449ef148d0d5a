"""``effnet-zoo bench``"""

import dataclasses
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_zoo.atomic_io import check_destination
from effnet_zoo.bench.report import full_table
from effnet_zoo.bench.results import merge_results, merged, read_results
from effnet_zoo.bench.settings import MEASURES, QUICK, Settings, all_measures, processors
from effnet_zoo.cli.output import AsJson, print_json_list, print_rows
from effnet_zoo.errors import EffnetZooError
from effnet_zoo.zoo import catalogue

if TYPE_CHECKING:
    from effnet_zoo.bench.results import Measurement


def bench(
    variants: Annotated[list[str] | None, typer.Argument(metavar="VARIANT", help="Variants; B0 by default.")] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option("--measure", help=f"{', '.join(MEASURES)}, or all; {', '.join(QUICK)} by default."),
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Images of a batch, for throughput; 8 by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many turns every contestant has.")] = 10,
    size: Annotated[
        int | None, typer.Option(min=32, help="Side of the images in pixels; each variant's own by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or, on cuda, float16.")] = "float32",
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also time what torch.compile builds in minutes.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of `files`; one for each processor by default.")
    ] = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="A JSON file. Each result is merged into it at once.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for pictures of these results and --out's.")] = None,
) -> None:
    """Time this package beside timm and other peers. All get the same weights and images. Outputs are compared first.

    effnet-zoo bench

    effnet-zoo bench effnet_zoo_b0 effnet_zoo_v2_s --measure throughput --batch 8 --batch 32 --dtype bfloat16

    effnet-zoo bench --measure all --out results.json --plot pictures   # hours; what is measured stays if interrupted

    effnet-zoo bench --device cuda --dtype float16 --json
    """
    wanted = measures or list(QUICK)
    settings = Settings(
        variants=tuple(dict.fromkeys(catalogue.find_variant(name).name for name in variants or ["effnet_zoo_b0"])),
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
    # Everything is checked first that could stop the run later.
    older = read_results(out) if out else []
    if out:
        check_destination(out)
    if plot:
        from effnet_zoo.bench.plot import save_pictures

        check_destination(plot / "ratios.png")
    from effnet_zoo.network.devices import find_device

    find_device(device)
    made: list[Measurement] = []
    failures: list[str] = []
    with _temporary_engine_cache():
        measurements = _measurements(settings, out, made, failures)
        if as_json:
            print_json_list(dataclasses.asdict(one) for one in measurements)
        else:
            for one in measurements:
                table = full_table(one)
                typer.echo(one.key)
                print_rows(table.headings, table.rows, left=("contestant", "notes"))
                for line in (*table.below, ""):
                    typer.echo(line)
    if plot:
        for path in save_pictures(merged(older, made), plot):
            typer.echo(f"wrote {path}", err=as_json)
    if failures:
        typer.echo(f"effnet-zoo: {len(failures)} could not be measured", err=True)
        raise typer.Exit(1)


def _measurements(
    settings: Settings, out: Path | None, made: "list[Measurement]", failures: list[str]
) -> "Iterator[Measurement]":
    """Yield each measurement, which is kept at once. A step that fails does not stop the others."""
    from effnet_zoo.bench import machine

    steps = machine.steps(settings)
    for number, step in enumerate(steps, start=1):
        name = f"{step.measure}: {step.subject}"
        if sys.stderr.isatty():  # no bar: the thread that draws one would be measured too
            typer.echo(f"{number} of {len(steps)}: {name}", err=True)
        found = []
        try:
            made.append(machine.make_measurement(step, settings))
        except EffnetZooError as error:
            found = [str(error)]
        else:
            if MEASURES[step.measure].in_processes:  # where a process died, the figures of the others stay
                found = [f"{who}: {why}" for who, why in made[-1].data.get("refused", {}).items()]
            if out:
                merge_results(out, made[-1:])
            yield made[-1]
        for failure in found:
            typer.echo(f"effnet-zoo: {name}: {failure}", err=True)
        failures += found


@contextmanager
def _temporary_engine_cache() -> Iterator[None]:
    """Set up a cache of engines that is deleted in the end: engines of drawn weights are of no further use."""
    before = os.environ.get("EFFNET_ZOO_HOME")
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as home:
        os.environ["EFFNET_ZOO_HOME"] = home
        try:
            yield
        finally:
            del os.environ["EFFNET_ZOO_HOME"]
            if before is not None:
                os.environ["EFFNET_ZOO_HOME"] = before
