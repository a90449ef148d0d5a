"""Tables and pictures of measurements."""

import dataclasses
import itertools
from pathlib import Path

import numpy
import pytest

from effnet_zoo.bench import forward, plot, report
from effnet_zoo.bench.report import full_table
from effnet_zoo.bench.results import merge_results
from effnet_zoo.bench.settings import MEASURES
from effnet_zoo.zoo import catalogue
from tests.bench.fakes import MACHINE, SECONDS, everything, forward_measurement, imports_data, measurement
from tools import speed


def test_a_table_has_everyone_and_says_who_is_missing() -> None:
    table = full_table(forward_measurement("latency", "effnet_zoo_b0", SECONDS))
    rows = {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}
    assert set(rows) == set(SECONDS)
    assert rows["effnet_zoo"] == {
        "contestant": "effnet_zoo",
        "median (10th–90th percentile)": "20.0 ms (18.0–24.0)",
        "images/s": "50.0",
        "of the ceiling": "25%",
        "relative error": "1.0e-06",
        "x timm": "2.00",
        "x best peer": "0.50",
        "notes": "",
    }
    assert rows["timm"]["notes"] == "as create_model gives it"
    assert table.below == (
        "best peer (timm in OpenVINO)",
        "absent: geffnet: No module named 'geffnet'",
        "ceiling: float32 200 GFLOP/s, copy 20 GB/s",
    )


def test_the_readme_compares_the_best_of_both() -> None:
    measurements = [
        forward_measurement("throughput", "effnet_zoo_v2_s", SECONDS, batch=8, size=384),
        forward_measurement(
            "latency", "effnet_zoo_b0", {**SECONDS, "timm recording": 0.06, "effnet_zoo recording": 0.04}
        ),
        forward_measurement("throughput", "effnet_zoo_b0", {"timm": 0.3, "effnet_zoo": 0.1}, batch=8),
    ]
    table = speed.forward_table(measurements)
    assert [row[0] for row in table.rows] == ["B0, 224 px, batch 1", "B0, 224 px, batch 8", "V2-S, 384 px, batch 8"]
    assert table.rows[0][1:] == (
        *("40.0", "25.0", "10.0 (OpenVINO)", "20.0", "16.0", "8.00 (openvino)"),
        *("2.00 x", "1.50 x", "1.25 x", "1.25 x", "25%"),
    )
    assert table.rows[1][2:] == ("–", "300 (timm)", "100", "–", "–", "3.00 x", "–", "–", "–", "–")
    assert table.below == (
        "Medians; the 10th and 90th percentile are within -10% and +20% of each.",
        "Not measured: geffnet (No module named 'geffnet').",
    )


def test_the_best_engine_is_one_that_was_timed() -> None:
    one = forward_measurement("latency", "effnet_zoo_b0", {"timm": 1.0, "effnet_zoo engine a": 0.5, "effnet_zoo": 0.1})
    assert report.best_engine(one) == "effnet_zoo engine a"
    assert report.best_peer(one) == "timm"
    assert report.times_faster(one, "effnet_zoo engine b", "timm") is None
    assert report.best_engine(measurement("imports", imports_data())) is None


def test_every_measure_has_a_table_of_its_own() -> None:
    measurements = everything()
    assert {one.measure for one in measurements} == set(MEASURES)
    for one in measurements:
        table = full_table(one)
        assert len(table.rows) == len(one.data["results"])
        assert all(len(row) == len(table.headings) for row in table.rows)
        assert len(table.headings) > 1, one.measure


def test_the_readme_shows_what_was_measured_and_leaves_out_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    monkeypatch.setattr(speed, "RESULTS", path)
    assert speed.performance().startswith("Nothing has been measured yet: `effnet-zoo bench --measure all")
    assert speed.loading().startswith("Nothing has been measured yet: `effnet-zoo bench --measure loading")
    merge_results(path, everything())
    text = speed.performance()
    for heading in ("ms a batch", "training step", "images/s", "start to first logits", "`import timm`", "photos with"):
        assert text.count(f"| {heading}") == 1, heading
    assert text.count("Measured on: Some CPU, 2 processors, 2 threads, AVX512") == 1
    assert "torch 2.9.9, timm 1.0.99" in text
    assert (
        "`effnet-zoo bench --measure latency`, 2026-01-02; `effnet-zoo bench --measure throughput`, 2026-01-02" in text
    )
    assert "| 1.00 s | 1.05 s | +50 ms |" in text
    assert "| x | 4 of 4; 1e-06 | 4 of 4; 1e-06 |" in text
    assert "| B0, 21 MB, a local file | 1.00 s | 1.00 s | 1.00 x | 2.0 x the weights | 2.0 x |" in speed.loading()
    assert "| B0 | `effnet_zoo predict` | 1.00 s (0.90–1.10) | 1.40 x |" in text
    assert text.count("\n| B0") == 2 + 4 + 2 + 2  # forward, training, starting, the command
    path.unlink()
    merge_results(path, [one for one in everything() if one.measure == "imports"])
    assert speed.performance().count("\n| --- |") == 1


def test_machines_do_not_share_a_table() -> None:
    here = forward_measurement("latency", "effnet_zoo_b0", SECONDS)
    there = dataclasses.replace(here, machine={**MACHINE, "processor": "Another"}, subject="elsewhere")
    newer = dataclasses.replace(here, subject="again", versions={"torch": "3.0"}, date="2026-03-04")
    groups = report.by_machine([here, there, newer])
    assert groups == [[here, newer], [there]]
    assert speed.versions_of(groups[0]) == "torch 2.9.9 and 3.0, timm 1.0.99"
    assert speed.commands_of(groups[0]) == "`effnet-zoo bench --measure latency`, 2026-01-02 to 2026-03-04"


def test_the_readme_shows_files_beside_the_fastest_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "results.json")
    assert speed.deployment().startswith("Nothing has been measured yet: `effnet-zoo bench --measure deployment")
    merge_results(tmp_path / "results.json", everything())
    assert "| onnx | 2.00 MB | 1.00 s | 1.00 s | 1.00 x | 75.0% | 1e-06 |" in speed.deployment()


def test_pictures_are_written_for_what_there_is(tmp_path: Path) -> None:
    written = plot.save_pictures(everything(), tmp_path / "new")
    assert {path.name for path in written} == {
        "accuracy.png",
        "ratios.png",
        "variant-curve.png",
        "batch-curve-b0.png",
        "size-curve-b0.png",
    }
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert plot.save_pictures([everything()[0]], tmp_path / "none") == []


def test_no_line_leads_from_one_family_to_the_other() -> None:
    figure = plot.curve_figure([one for one in everything() if one.measure == "variant-curve"])
    assert figure is not None
    for line in figure.axes[0].lines:
        gaps = numpy.isnan(numpy.asarray(line.get_ydata(), float)).nonzero()[0]
        assert gaps.tolist() == [8]  # B0 to B7, then V2


def test_labels_of_the_accuracy_picture_do_not_cover_each_other() -> None:
    rows = [
        forward_measurement(
            "variant-curve",
            name,
            {"timm": 0.0102 * (1 + number), "effnet_zoo": 0.01 * (1 + number)},  # marks that nearly touch
            size=catalogue.find_variant(name).default.preprocessing.size[0],
        )
        for number, name in enumerate(forward.VARIANT_CURVE.variants)
    ]
    figure = plot.accuracy_figure(rows)
    assert figure is not None
    (axes,) = figure.axes
    assert "reported" in axes.get_ylabel()
    assert "not measured" in axes.get_title(loc="left")
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        2 * [report.short(name) for name in forward.VARIANT_CURVE.variants]
    )
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert plot.accuracy_figure(rows[:1]) is None
    other_size = dataclasses.replace(rows[0], data={**rows[0].data, "case": {**rows[0].data["case"], "size": 64}})
    assert plot.accuracy_figure([other_size, *rows[1:2]]) is None  # nothing is reported for that size
