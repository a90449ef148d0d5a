"""Files to labels and features: the same as one by one, in order, to files that a killed run leaves whole."""

import copy
import os
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from effnet_zoo import EfficientNet, preprocessing_of
from effnet_zoo.errors import ArgumentError
from effnet_zoo.images.decoding import open_image
from effnet_zoo.predict.prediction import Guess, Prediction, embed, predict
from effnet_zoo.runtime.exported import Exported
from tests.parity.photos import PHOTOS
from tests.predict.common import LITE0, one_by_one


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


@pytest.mark.parametrize("compute", [predict, embed])
def test_a_model_in_training_stays_so_and_is_run_in_eval_mode(compute: Any) -> None:
    classes = 3 if compute is predict else 0
    model = EfficientNet.from_name("effnet_zoo_lite0", num_classes=classes, drop_rate=0.9)
    model.pretrained_cfg["num_classes"] = classes
    model.train()
    model.conv_head.eval()
    before = [module.training for module in model.modules()]
    moved = copy.deepcopy(model.bn1.state_dict())
    first, second = (list(compute(model, [PHOTOS["coffee.png"]])) for _ in range(2))
    assert repr(first) == repr(second), "dropout would differ"
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, moved[key]) for key, value in model.bn1.state_dict().items())


def test_labels_are_those_of_one_image_at_a_time(model: EfficientNet, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    predictions = list(predict(model, paths, batch_size=4, workers=2))
    assert [prediction.path for prediction in predictions] == paths
    (broken,) = [prediction for prediction in predictions if prediction.error]
    assert broken.path.name == "3-broken.jpg"
    good = [prediction for prediction in predictions if not prediction.error]
    expected = one_by_one(model, [prediction.path for prediction in good]).softmax(1)
    for prediction, probabilities in zip(good, expected, strict=True):
        guess = prediction.guesses[0]
        assert guess.index == probabilities.argmax()
        assert guess.probability == pytest.approx(float(probabilities.max()), abs=0.01)


def test_features_are_pooled_and_the_models_own(folder: Path) -> None:
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    found = [each for each in embed(pooled, sorted(folder.glob("*.jpg")), batch_size=4) if each.features is not None]
    expected = one_by_one(pooled, [each.path for each in found])
    assert expected.shape[1] == pooled.num_features
    for each, features in zip(found, expected, strict=True):
        assert each.features is not None
        assert torch.nn.functional.cosine_similarity(each.features, features, dim=0) > 0.9999


def test_an_engine_is_given_whole_batches_and_believed(model: EfficientNet, folder: Path) -> None:
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []

    def run(images: Tensor) -> Tensor:
        seen.append((tuple(images.shape), images.dtype))
        return torch.nn.functional.one_hot(torch.arange(len(images)) + 7, 1000).float() * 50

    paths = sorted(folder.iterdir())
    tops = [p.guesses[0].index if p.guesses else None for p in predict(model, paths, topk=1, run=run, batch_size=4)]
    # The broken file is fourth, so the first batch has three images.
    assert tops == [7, 8, 9, None, 7, 8, 9, 10, 7]
    size = preprocessing_of(model.pretrained_cfg).size
    assert seen == [((n, 3, *size), torch.float32) for n in (3, 4, 1)]


def test_a_million_broken_files_stay_a_window(model: EfficientNet) -> None:
    drawn = 0

    def paths() -> Iterator[Path]:
        nonlocal drawn
        for number in range(1_000_000):
            drawn = number + 1
            yield Path(f"missing/{number}.jpg")

    for number, prediction in enumerate(predict(model, paths(), batch_size=8, workers=2)):
        assert prediction.error is not None
        assert prediction.path.name == f"{number}.jpg"
        if number == 2000:
            break
    assert drawn < 2000 + 50


def test_wrong_arguments_are_refused_at_once(model: EfficientNet) -> None:
    for options, message in (
        ({"topk": 0}, "topk=0: expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number from 1 to 65536"),
        ({"workers": 0}, "workers=0: expected a whole number from 1 to 1024"),
    ):
        with pytest.raises(ArgumentError, match=message):
            predict(model, (), **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a model without classes, found one of 1000"):
        embed(model, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": "5"}, "topk='5': expected a whole number of at least 1"),
        ({"topk": True}, "topk=True: expected a whole number"),
        ({"batch_size": "x"}, "batch_size='x': expected a whole number from 1 to 65536"),
        ({"batch_size": 2**63}, "batch_size=9223372036854775808: expected a whole number from 1 to 65536"),
        ({"workers": 2.0}, "workers=2.0: expected a whole number from 1 to 1024"),
        ({"workers": 10**9}, "workers=1000000000: expected"),
        ({"paths": "photo.jpg"}, "paths='photo.jpg': expected several paths, such as a list"),
        ({"paths": Path("photo.jpg")}, "expected several paths"),
        ({"paths": 5}, "paths=5: expected several paths"),
        ({"model": torch.nn.Linear(1, 1)}, "Linear: expected a classifier of this package, or an exported one"),
    ],
    ids=str,
)
def test_arguments_of_other_types_are_refused_at_once(
    model: EfficientNet, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        predict(**{"model": model, "paths": [], **options})


def test_what_is_no_path_is_refused_when_it_comes(model: EfficientNet) -> None:
    with pytest.raises(ArgumentError, match="paths: expected paths of image files, found ndarray"):
        list(predict(model, numpy.zeros((1, 8, 8, 3), numpy.uint8)))


def test_more_classes_than_there_are_gives_all(model: EfficientNet) -> None:
    (found,) = predict(model, [str(PHOTOS["coffee.png"])], topk=2000)
    assert sorted(guess.index for guess in found.guesses) == list(range(1000))


def test_names_with_control_characters_stay_one_line(model: EfficientNet) -> None:
    (found,) = predict(model, [Path("no\nsuch\x1b[2J.jpg")])
    assert found.error == "no\\nsuch\\x1b[2J.jpg: there is no such file or folder"


def test_images_are_of_the_models_channels() -> None:
    grey = EfficientNet.from_pretrained(LITE0, in_chans=1)
    with pytest.raises(ArgumentError, match="a model of 1 channels whose images have 3: expected 1 or 3 of both"):
        predict(grey, [])
    grey.pretrained_cfg = {**grey.pretrained_cfg, "mean": (0.5,), "std": (0.5,)}
    assert [len(found.guesses) for found in predict(grey, [PHOTOS["coffee.png"]])] == [5]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (float("nan"), None, "1 of 1000 outputs are not finite in float32: expected numbers: check the weights"),
        (float("inf"), "float16", "not finite in float16: expected numbers: compute in float32"),
        (float("-inf"), "bfloat16", "not finite in bfloat16: expected numbers: compute in float32"),
    ],
)
def test_outputs_that_are_no_numbers_are_an_error_of_their_image(
    model: EfficientNet, folder: Path, value: float, dtype: str | None, message: str
) -> None:
    class Computing:
        def __call__(self, images: Tensor) -> Tensor:
            outputs = torch.zeros(len(images), 1000)
            outputs[1, 3] = value
            return outputs

    run = Computing()
    if dtype:
        run.dtype = dtype  # type: ignore[attr-defined]
    paths = [folder / f"{number}.jpg" for number in range(3)]
    found = list(predict(model, paths, run=run))
    assert [each.error is None for each in found] == [True, False, True]
    assert str(found[1].error).startswith(f"{paths[1]}: ")
    assert message in str(found[1].error)
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    assert [each.features is None for each in embed(pooled, paths, run=run)] == [False, True, False]


def test_outputs_of_another_shape_are_refused(model: EfficientNet) -> None:
    with pytest.raises(ArgumentError, match=r"run: outputs of shape \(1000,\) for 1 images: expected \(1, outputs\)"):
        list(predict(model, [PHOTOS["coffee.png"]], run=lambda images: torch.zeros(1000)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_any_dtype_is_given_images_of_its_own(dtype: torch.dtype) -> None:
    other = EfficientNet.from_pretrained(LITE0).to(dtype)
    (found,) = predict(other, [PHOTOS["coffee.png"]], topk=1)
    assert found.guesses[0].label == "espresso"
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).to(dtype)
    (embedding,) = embed(pooled, [PHOTOS["coffee.png"]])
    assert embedding.features is not None
    assert embedding.features.dtype == torch.float32
    assert not embedding.features.is_inference()


def test_images_go_to_the_models_device(model: EfficientNet) -> None:
    """A device without memory stands for a GPU; what runs there gives outputs on the CPU."""
    seen = []

    def run(images: Tensor) -> Tensor:
        seen.append((images.device.type, images.dtype, tuple(images.shape)))
        return torch.zeros(len(images), 1000)

    elsewhere = EfficientNet.from_name("effnet_zoo_lite0", device="meta")
    elsewhere.pretrained_cfg = model.pretrained_cfg
    (found,) = predict(elsewhere, [PHOTOS["coffee.png"]], run=run)
    assert found.error is None
    assert seen == [("meta", torch.float32, (1, 3, 224, 224))]


def test_files_are_turned_unless_that_is_not_wanted(model: EfficientNet, tmp_path: Path) -> None:
    photo = open_image(PHOTOS["coffee.png"])
    photo.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    paths = [tmp_path / "upright.png", tmp_path / "turned.png"]
    pooled = EfficientNet.from_pretrained(LITE0, num_classes=0).eval()
    for orientation in (True, False):
        upright, turned = (each.guesses for each in predict(model, paths, orientation=orientation, batch_size=1))
        assert (upright == turned) == orientation
        same, other = (each.features for each in embed(pooled, paths, orientation=orientation, batch_size=1))
        assert same is not None
        assert other is not None
        assert torch.equal(same, other) == orientation


def test_a_probability_of_zero_is_no_fault_of_an_exported_file() -> None:
    exported = object.__new__(Exported)
    exported.path = Path("m.onnx")
    interface = types.SimpleNamespace(pixels="nchw", resize=False, softmax=True, dtype="float32")
    exported.metadata = types.SimpleNamespace(interface=interface)  # type: ignore[assignment]
    exported.preprocessing = preprocessing_of(EfficientNet.from_name("effnet_zoo_b0").pretrained_cfg)
    exported._session = lambda pixels: numpy.array([[1.0, 0.0]], numpy.float32)
    exported._process = os.getpid()
    logits = torch.from_numpy(exported([numpy.zeros((8, 8, 3), numpy.uint8)]))
    assert logits.isfinite().all()
    assert logits.softmax(1).tolist() == [[1.0, pytest.approx(0, abs=1e-30)]]


def test_pictures_show_names_as_they_are(model: EfficientNet, tmp_path: Path) -> None:
    """Matplotlib would take what is between dollars for a formula, and fail at a byte that is not UTF-8."""
    from effnet_zoo.predict.pictures import Pictures

    path = tmp_path / os.fsdecode(b"$a^$\xff\n.png")
    shutil.copy(PHOTOS["coffee.png"], path)
    guess = Guess(index=0, label="$x^$ \x1b[2J", probability=0.5)
    picture = Pictures(tmp_path / "pictures", "model").save(Prediction(path=path, guesses=(guess,)))
    assert open_image(picture).width > 1000
