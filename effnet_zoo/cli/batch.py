"""The options that ``predict`` and ``embed`` share, and the way of many files through a model."""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from effnet_zoo.cli.output import AsJson, with_rate
from effnet_zoo.errors import ArgumentError, printable
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import preprocessing_of

if TYPE_CHECKING:
    from effnet_zoo.images.finding import Skipped
    from effnet_zoo.predict.prediction import Embedding, Prediction, Runnable
    from effnet_zoo.predict.results import Output

DEFAULT_MODEL = "effnet_zoo_lite0.pypi_in1k"
ENGINES = ("auto", "eager", "inductor", "onnxruntime", "openvino")
DTYPES = ("float32", "bfloat16", "float16")
EXPORTED = (".onnx", ".xml")
MANY = 256
"""With this many files it pays to measure which engine is fastest, and to import torch for resizing."""


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The options as they were given: `options.bundled` makes an option of each field.

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
    def model_source(self) -> str:
        """The model's name in full, or where it is."""
        return self.model if self.exported or ":" in self.model else catalogue.find(self.model)[1].name

    @property
    def model_name(self) -> str:
        """The model's name as it is written and printed."""
        return printable(self.model_source)

    def images(self, skipped: "Skipped | None" = None) -> Iterator[Path]:
        """Return the files that are named: see `find_images`."""
        from effnet_zoo.images.finding import find_images

        return find_images(self.paths or [], self.from_list, skipped=skipped)

    def load(self, *, classes: bool, many: bool) -> "Runnable":
        """Return the model, run by the engine that is wanted, or that is fastest for many files.

        Raises:
            UnknownNameError: If there is no such model.
        """
        if self.exported:
            from effnet_zoo.runtime.exported import Exported

            return Exported(Path(self.model), resize="torch" if many else "pillow")
        import torch

        from effnet_zoo.checkpoints.creation import create_classifier
        from effnet_zoo.network.options import BuildOptions
        from effnet_zoo.predict.torch_model import TorchModel

        device = torch.device("cpu" if self.device is None else self.device)
        own: BuildOptions = {"device": device} if classes else {"device": device, "num_classes": 0}
        model = create_classifier(self.model_source, pretrained=True, **own)
        if self.engine is None and self.dtype == "float32" and not many:
            return TorchModel(model, None)  # an engine would take longer to make than to run
        from effnet_zoo.runtime.engine import engine

        backend, size = self.engine or ("auto" if many else "eager"), preprocessing_of(model.pretrained_cfg).size
        return TorchModel(model, engine(model, backend=backend, dtype=self.dtype, batch=self.batch_size, size=size))

    def check_device(self) -> None:
        """Check the device before anything is fetched or written.

        Raises:
            UnknownNameError: If there is no such device.
        """
        if not self.exported and self.device is not None:
            from effnet_zoo.network.devices import find_device

            find_device(self.device)


@contextmanager
def opened(options: FileOptions, *, topk: int | None = None) -> Iterator["Batch"]:
    """Open the output, load the model, and yield the files on their way through it. At the end, say how many failed.

    Input that cannot be read, and output that cannot be written, are refused before weights are fetched.

    Args:
        options: Which files, through which model, and where to.
        topk: Classes a file, at most; None for features.

    Raises:
        InputError: If there is no such input, or the output cannot be written.
        UnknownNameError: If there is no such model or device.
        typer.Exit: With status 1, if files have no result.
    """
    from effnet_zoo.images.finding import Skipped
    from effnet_zoo.predict.results import reserved

    options.check_device()
    skipped = Skipped()
    images = options.images(skipped)
    holding = reserved(options.output, resume=options.resume, force=options.force) if options.output else nullcontext()
    with holding as output:
        first = list(itertools.islice(images, MANY))
        model = options.load(classes=topk is not None, many=len(first) == MANY)
        batch = Batch(options, model, topk, itertools.chain(first, images), output)
        yield batch
    if skipped:
        typer.echo(f"effnet-zoo: {skipped}", err=True)
    if batch.failed:
        typer.echo(f"effnet-zoo: {batch.failed} of {batch.total} files have an error and no result", err=True)
        raise typer.Exit(1)


class Batch:
    """Files on their way through a model.

    Attributes:
        total: How many files have a result or an error so far.
        failed: How many of them have an error.
    """

    def __init__(
        self, options: FileOptions, model: "Runnable", topk: int | None, images: Iterable[Path], output: "Output | None"
    ) -> None:
        self.options, self.model, self.images, self.output = options, model, images, output
        self.topk = topk and min(topk, model.num_classes or topk)
        self._doing: Literal["predicting", "embedding"] = "embedding" if topk is None else "predicting"
        self.total = self.failed = 0

    def results(self) -> "Iterator[Prediction | Embedding]":
        """Yield the result of each file. If there is an error instead, print it too."""
        return self._results(self.images)

    def as_json(self, result: "Prediction | Embedding", **more: Any) -> dict[str, Any]:
        """Return a result as a JSON object, with the model's name and what else describes it."""
        from effnet_zoo.predict.results import as_json

        return as_json(result, model=self.options.model_name, orientation=self.options.orientation, **more)

    def write(self) -> None:
        """Write the results of the files that have no row yet to the output, and say how many rows it has."""
        from effnet_zoo.images.finding import digest, path_text
        from effnet_zoo.predict.results import Facts, as_row, columns

        assert self.output is not None
        facts = Facts(
            effnet_zoo=self._doing,
            model=self.options.model_name,
            weights=self.model.fingerprint,
            preprocessing=self.model.preprocessing,
            orientation=self.options.orientation,
            dtype=self.options.dtype,
            topk=self.topk,
            columns=columns(self.topk, self.model.head_hidden_size),
        )
        to_row = self.as_json if self.output.path.suffix == ".jsonl" else as_row
        with self.output.opened(facts):
            done, self.failed = self.output.done, self.output.failed
            self.total = len(done)
            results = self._results(path for path in self.images if digest(path_text(path)) not in done)
            while batch := list(itertools.islice(results, self.options.batch_size)):
                self.output.write(list(map(to_row, batch)))
        typer.echo(printable(f"wrote {self.options.output}: {self.total} rows"))

    def _results(self, paths: Iterable[Path]) -> "Iterator[Prediction | Embedding]":
        options = self.options
        count = None if options.from_list == "-" else lambda: sum(1 for _ in options.images())
        between_tables = options.output is None and not options.as_json and sys.stdout.isatty()
        computed = self._computed(paths)
        for result in with_rate(computed, count, self._doing, done=self.total, wanted=not between_tables):
            self.total += 1
            if result.error is not None:
                self.failed += 1
                typer.echo(f"effnet-zoo: {result.error}", err=True)
            yield result

    def _computed(self, paths: Iterable[Path]) -> "Iterator[Prediction | Embedding]":
        from effnet_zoo.predict.prediction import embed, predict

        size, workers, turned = self.options.batch_size, self.options.workers, self.options.orientation
        if self.topk is None:
            return embed(self.model, paths, batch_size=size, workers=workers, orientation=turned)
        return predict(self.model, paths, topk=self.topk, batch_size=size, workers=workers, orientation=turned)
