"""``effnet-zoo predict``"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from effnet_zoo import catalog
from effnet_zoo.cli.output import AsJson, print_json, print_table, with_progress
from effnet_zoo.errors import InputError

if TYPE_CHECKING:
    from effnet_zoo.predict import Prediction

DEFAULT_MODEL = "effnet_zoo_lite0.pypi_in1k"


def predict(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images, folders or globs.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option(help="A model, with or without a tag, local-dir:FOLDER or hf-hub:owner/name.")
    ] = DEFAULT_MODEL,
    topk: Annotated[int, typer.Option(min=1, help="How many classes.")] = 5,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of each result.", show_default=False)] = None,
) -> None:
    """Classify photos with pretrained weights and the preprocessing that belongs to them.

    effnet-zoo predict photo.jpg --out pictures

    effnet-zoo predict holiday/ '*.png' --model effnet_zoo_b3 --topk 3 --json

    effnet-zoo predict bird.jpg --model local-dir:mine   # what convert and push --to write
    """
    name = model if ":" in model else catalog.find(model)[1].name
    from effnet_zoo import predict as predicting
    from effnet_zoo.registry import create_classifier

    images = predicting.find_images(paths)
    save = _picture_saver(out, images, name) if out else None
    classifier = create_classifier(name, pretrained=True)
    predictions = predicting.predict(classifier, images, topk=topk)
    tables_show_progress = sys.stdout.isatty() and not as_json
    answers: list[dict[str, Any]] = []
    failed = 0
    for prediction in with_progress(predictions, len(images), "predicting", wanted=not tables_show_progress):
        if prediction.error is not None:
            failed += 1
            typer.echo(f"effnet-zoo: {prediction.error}", err=True)
        picture = save(prediction) if save and prediction.error is None else None
        if as_json:
            answers.append(_as_json(prediction, name, picture))
        elif prediction.error is None:
            _show(prediction, name, picture)
    if as_json:
        print_json(answers)
    if failed:
        typer.echo(f"effnet-zoo: {failed} of {len(images)} files could not be read", err=True)
        raise typer.Exit(1)


def _picture_saver(out: Path, images: list[Path], name: str) -> "Callable[[Prediction], Path]":
    from effnet_zoo import draw

    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: expected a folder, but this is a file")
    names = dict(zip(images, draw.picture_names(images), strict=True))

    def save(prediction: "Prediction") -> Path:
        out.mkdir(parents=True, exist_ok=True)
        path = out / names[prediction.path]
        draw.save_picture(prediction, name, path)
        return path

    return save


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


def _as_json(prediction: "Prediction", name: str, picture: Path | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"path": str(prediction.path), "model": name}
    if prediction.error is not None:
        return {**answer, "error": prediction.error}
    if picture:
        answer["picture"] = str(picture)
    return {**answer, "classes": [dataclasses.asdict(guess) for guess in prediction.guesses]}
