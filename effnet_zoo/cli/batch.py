"""What ``predict`` and ``embed`` share: their options, and the way from many files to rows."""

import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar

import typer

from effnet_zoo.cli.output import AsJson, print_json_list, with_rate
from effnet_zoo.errors import ArgumentError, printable
from effnet_zoo.images.paths import digest, path_text
from effnet_zoo.zoo import catalogue

if TYPE_CHECKING:
    from effnet_zoo.predict.prediction import Model as AnyModel
    from effnet_zoo.predict.prediction import Run
    from effnet_zoo.predict.results import Column, Facts

DEFAULT_MODEL = "effnet_zoo_lite0.pypi_in1k"
ENGINES = ("auto", "eager", "inductor", "onnxruntime", "openvino")
DTYPES = ("float32", "bfloat16", "float16")
EXPORTED = (".onnx", ".xml")
MANY = 256
"""Files from which on it pays to measure which engine is fastest."""


class Result(Protocol):
    """What is found of a file."""

    @property
    def path(self) -> Path: ...
    @property
    def error(self) -> str | None: ...


Found = TypeVar("Found", bound=Result)


@dataclass(frozen=True, kw_only=True)
class Work(Generic[Found]):
    """What a command computes with a model, and how it writes what is found.

    Attributes:
        doing: What this is, for the progress bar and for ``run.json``.
        results: Files to what is found of each; it takes the keywords of `predict.predict`.
        columns: Of a table, besides path and error.
        cells: A result without error as values by column.
        answer: A result without error as JSON has it, besides path and model.
        show: Prints a result for people.
        topk: Classes a row.
    """

    doing: Literal["predicting", "embedding"]
    results: Callable[..., Iterator[Found]]
    columns: "Sequence[Column]"
    cells: Callable[[Found], Mapping[str, Any]]
    answer: Callable[[Found], Mapping[str, Any]]
    show: Callable[[Found], None] | None = None
    topk: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options as they were given: each field is one, see `with_job`.

    Raises:
        ArgumentError: If two of them contradict each other, or one has no such value.
    """

    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH...]", help="Images, folders or globs.", show_default=False)
    ] = None
    model: Annotated[
        str,
        typer.Option(
            help="A model, with or without a tag, local-dir:FOLDER, hf-hub:owner/name, or an exported .onnx or .xml "
            "file."
        ),
    ] = DEFAULT_MODEL
    as_json: AsJson = False
    from_list: Annotated[
        str | None, typer.Option(help="A text file with a path a line, or - for standard input.", show_default=False)
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(help="A .csv, .jsonl or .parquet file to write as it goes, a row a file.", show_default=False),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the output of a run that was interrupted: rows there are not redone."),
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")] = False
    orientation: Annotated[
        bool,
        typer.Option(
            "--orientation/--no-orientation",
            help="Turn photos as their EXIF orientation says. Published figures are measured without.",
        ),
    ] = True
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps or xpu; cpu by default.", show_default=False)
    ] = None
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(ENGINES)}; by default auto for {MANY} files and more, and none for fewer.",
            show_default=False,
        ),
    ] = None
    dtype: Annotated[str, typer.Option(help="What the engine computes in: float32, bfloat16 or float16.")] = "float32"
    batch_size: Annotated[int, typer.Option(min=1, help="Images a run, at most.")] = 32
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that read; one for each of torch's by default.", show_default=False),
    ] = None

    def __post_init__(self) -> None:
        if not self.paths and self.from_list is None:
            raise ArgumentError("expected images, folders or globs, or --from-list FILE")
        for option, value, known in (("--engine", self.engine, ENGINES), ("--dtype", self.dtype, DTYPES)):
            if value is not None and value not in known:
                raise ArgumentError(f"{option} {value}: expected {' or '.join(known)}")
        if self.output is None and (self.resume or self.force):
            raise ArgumentError(f"--{'resume' if self.resume else 'force'}: expected --output FILE with it")
        if self.resume and self.force:
            raise ArgumentError("--resume keeps the output and --force replaces it: expected at most one of them")
        if self.output and self.from_list and os.path.realpath(self.output) == os.path.realpath(self.from_list):
            raise ArgumentError(f"--output {self.output}: this is the list of --from-list: expected another name")
        if self.exported and (self.engine is not None or self.device is not None or self.dtype != "float32"):
            raise ArgumentError(
                f"--engine, --device and --dtype: {self.model} is run by its own runtime on the processor: leave them "
                "out"
            )
        if self.output is not None and self.as_json:
            raise ArgumentError("--json prints and --output writes: expected one of them; FILE.jsonl has JSON lines")

    @property
    def exported(self) -> bool:
        """Whether the model is a file that export wrote."""
        return self.model.endswith(EXPORTED)

    @property
    def name(self) -> str:
        """The model's name in full, as it is written and printed."""
        return printable(self._source)

    @property
    def _source(self) -> str:
        return self.model if self.exported or ":" in self.model else catalogue.find(self.model)[1].name

    def run(self, work_of: "Callable[[AnyModel], Work[Found]]", **options: Any) -> None:
        """Takes the files through a model: to the output, as JSON, or shown.

        What cannot be read, written or computed on is refused before weights are fetched.

        Args:
            work_of: What to do with the model.
            options: Of the model.

        Raises:
            InputError: If there is no such input, or the output cannot be written.
            UnknownNameError: If there is no such model or device.
            typer.Exit: With status 1, if files have no result.
        """
        from effnet_zoo.images.reader import Skipped, find_images
        from effnet_zoo.network.devices import find_device
        from effnet_zoo.predict.results import reserved

        device = find_device("cpu" if self.device is None else self.device)
        name, skipped = self.name, Skipped()
        images = find_images(self.paths or [], self.from_list, skipped=skipped)
        tally = _Tally()
        with reserved(self.output, resume=self.resume, force=self.force) if self.output else nullcontext() as output:
            model = self._load({**options, "device": device})
            work = work_of(model)
            first = list(itertools.islice(images, MANY))
            images = itertools.chain(first, images)
            run = self._engine(model, many=len(first) == MANY)
            results = functools.partial(
                work.results,
                run=run,
                batch_size=self.batch_size,
                workers=self.workers,
                orientation=self.orientation,
            )
            as_object = functools.partial(self._as_object, work, name)
            if output is None:
                self._print(work, tally.of(self._with_rate(results(images), work.doing)), as_object)
            else:
                as_row = as_object if output.path.suffix == ".jsonl" else functools.partial(_as_row, work)
                with output.rows(self._facts(work, model, name)) as rows:
                    tally.total, tally.failed = len(rows.done), rows.failed
                    left = (path for path in images if digest(path_text(path)) not in rows.done)
                    found = tally.of(self._with_rate(results(left), work.doing, done=len(rows.done)))
                    while batch := list(itertools.islice(found, self.batch_size)):
                        rows.write(list(map(as_row, batch)))
                typer.echo(printable(f"wrote {self.output}: {tally.total} rows"))
        if skipped.counts:
            typer.echo(f"effnet-zoo: {skipped}", err=True)
        tally.conclude()

    def _load(self, options: dict[str, Any]) -> "AnyModel":
        if self.exported:
            from effnet_zoo.runtime.exported import Exported

            return Exported(Path(self.model))
        from effnet_zoo.registry import create_classifier

        return create_classifier(self._source, pretrained=True, **options)

    def _engine(self, model: "AnyModel", *, many: bool) -> "Run | None":
        from effnet_zoo.network.model import EfficientNet
        from effnet_zoo.zoo.preprocessing import preprocessing_of

        if not isinstance(model, EfficientNet):
            return None
        if self.engine is None and self.dtype == "float32" and not many:
            return None  # the model itself: an engine would take longer to make than to run
        from effnet_zoo.runtime.engine import engine

        backend, size = self.engine or ("auto" if many else "eager"), preprocessing_of(model.pretrained_cfg).size
        return engine(model, backend=backend, dtype=self.dtype, batch=self.batch_size, size=size)

    def _facts(self, work: Work[Found], model: "AnyModel", name: str) -> "Facts":
        from effnet_zoo.checkpoints.statefile import fingerprint
        from effnet_zoo.network.model import EfficientNet
        from effnet_zoo.predict.results import Column, Facts
        from effnet_zoo.zoo.preprocessing import preprocessing_of

        return Facts(
            effnet_zoo=work.doing,
            model=name,
            weights=fingerprint(model.state_dict()) if isinstance(model, EfficientNet) else model.fingerprint,
            preprocessing=preprocessing_of(model.pretrained_cfg),
            orientation=self.orientation,
            dtype=self.dtype,
            topk=work.topk,
            columns=(Column("path", "text"), Column("error", "text"), *work.columns),
        )

    def _as_object(self, work: Work[Found], name: str, found: Found) -> dict[str, Any]:
        common = {"path": path_text(found.path), "model": name, "orientation": self.orientation}
        return {**common, **(work.answer(found) if found.error is None else {"error": found.error})}

    def _print(self, work: Work[Found], results: Iterator[Found], as_object: Callable[[Found], dict[str, Any]]) -> None:
        if self.as_json:
            print_json_list(map(as_object, results))
            return
        for found in results:
            if work.show and found.error is None:
                work.show(found)

    def _with_rate(self, results: Iterator[Found], doing: str, *, done: int = 0) -> Iterable[Found]:
        from effnet_zoo.images.reader import find_images

        count = None if self.from_list == "-" else lambda: sum(1 for _ in find_images(self.paths or [], self.from_list))
        between_tables = self.output is None and not self.as_json and sys.stdout.isatty()
        return with_rate(results, count, doing, done=done, wanted=not between_tables)


def with_job(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `Job` in place of its first parameter."""

    @functools.wraps(command)
    def with_options(**options: Any) -> None:
        common = {name: options.pop(name) for name in names}
        command(Job(**common), **options)

    def parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)

    names = [field.name for field in fields(Job)]
    common = [parameter(field.name, field.type, field.default) for field in fields(Job)]
    _, *own = inspect.signature(command).parameters.values()
    own = [parameter(each.name, each.annotation, each.default) for each in own]
    with_options.__signature__ = inspect.Signature([*common, *own])  # type: ignore[attr-defined]
    return with_options


def _as_row(work: Work[Found], found: Found) -> dict[str, Any]:
    return {"path": path_text(found.path), "error": found.error, **(work.cells(found) if found.error is None else {})}


class _Tally:
    """Counts results, and says which files have none."""

    def __init__(self) -> None:
        self.total = self.failed = 0

    def of(self, results: Iterable[Found]) -> Iterator[Found]:
        """Yields the results, counted."""
        for found in results:
            self.total += 1
            if found.error is not None:
                self.failed += 1
                typer.echo(f"effnet-zoo: {found.error}", err=True)
            yield found

    def conclude(self) -> None:
        """Says how many files have no result.

        Raises:
            typer.Exit: With status 1, if there are any.
        """
        if self.failed:
            typer.echo(f"effnet-zoo: {self.failed} of {self.total} files have an error and no result", err=True)
            raise typer.Exit(1)
