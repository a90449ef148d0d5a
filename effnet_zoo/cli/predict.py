"""``effnet-zoo predict``"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from effnet_zoo.cli import batch
from effnet_zoo.cli.output import AsJson, print_table
from effnet_zoo.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from effnet_zoo.predict import Prediction


def predict(
    paths: batch.Paths = None,
    model: batch.Model = batch.DEFAULT_MODEL,
    topk: Annotated[int, typer.Option(min=1, help="How many classes.")] = 5,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of each result.", show_default=False)] = None,
    from_list: batch.FromList = None,
    output: batch.Output = None,
    resume: batch.Resume = False,
    force: batch.Force = False,
    engine: batch.EngineOption = None,
    dtype: batch.Dtype = "float32",
    batch_size: batch.BatchSize = 32,
    workers: batch.Workers = None,
) -> None:
    """Classify photos with pretrained weights and the preprocessing that belongs to them.

    effnet-zoo predict photo.jpg --out pictures

    effnet-zoo predict holiday/ '*.png' --model effnet_zoo_b3 --topk 3 --json

    effnet-zoo predict archive/ --output labels.parquet --resume   # millions; the same again after an interruption

    effnet-zoo predict bird.jpg --model local-dir:mine   # what convert and push --to write

    effnet-zoo predict bird.jpg --model mine.onnx   # what export and quantize write
    """
    job = batch.Job(
        paths=paths,
        from_list=from_list,
        model=model,
        output=output,
        resume=resume,
        force=force,
        engine=engine,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        as_json=as_json,
    )
    if out and output:
        raise ArgumentError("--out draws pictures of a few files, --output lists many: expected one of them")
    name = job.name
    from effnet_zoo import predict as predicting
    from effnet_zoo.images import shown
    from effnet_zoo.rows import Column

    images = job.find()
    pictures = _Pictures(out, name) if out else None
    classifier = job.load()
    places = range(1, topk + 1)
    columns = [Column("path", "text"), Column("error", "text")]
    for place in places:
        columns += [
            Column(f"index_{place}", "whole"),
            Column(f"label_{place}", "text"),
            Column(f"probability_{place}", "real"),
        ]

    def as_row(prediction: "Prediction") -> dict[str, Any]:
        row: dict[str, Any] = {"path": shown(prediction.path), "error": prediction.error}
        for place, guess in zip(places, prediction.guesses, strict=False):
            row |= {f"{key}_{place}": value for key, value in dataclasses.asdict(guess).items()}
        return row

    def as_object(prediction: "Prediction") -> dict[str, Any]:
        answer: dict[str, Any] = {"path": shown(prediction.path), "model": name}
        if prediction.error is not None:
            return {**answer, "error": prediction.error}
        if pictures:
            answer["picture"] = str(pictures.save(prediction))
        return {**answer, "classes": [dataclasses.asdict(guess) for guess in prediction.guesses]}

    def show(prediction: "Prediction") -> None:
        _show(prediction, name, pictures.save(prediction) if pictures else None)

    job.run(
        classifier,
        images,
        lambda some, run: predicting.predict(classifier, some, topk=topk, run=run, **job.how()),
        doing="predicting",
        facts={"topk": topk},
        columns=columns,
        as_row=as_row,
        as_object=as_object,
        show=show,
    )


class _Pictures:
    def __init__(self, folder: Path, model_name: str) -> None:
        from effnet_zoo import draw

        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out {folder}: expected a folder, but this is a file")
        self.folder, self.model_name, self.names = folder, model_name, draw.PictureNames()

    def save(self, prediction: "Prediction") -> Path:
        from effnet_zoo import draw

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self.names.of(prediction.path)
        draw.save_picture(prediction, self.model_name, path)
        return path


def _show(prediction: "Prediction", name: str, picture: Path | None) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("class", justify="right", no_wrap=True)
    table.add_column("name")
    for guess in prediction.guesses:
        table.add_row(f"{guess.probability:.1%}", str(guess.index), guess.label)
    typer.echo(f"{prediction.path}  ({name})")
    print_table(table)
    typer.echo(f"picture: {picture}\n" if picture else "")
