"""Measurements that were never made, for tests of what is kept and shown."""

from collections.abc import Callable, Mapping
from typing import Any

from effnet_zoo.bench import forward, processes, referee
from effnet_zoo.bench.machine import Step
from effnet_zoo.bench.results import Data, Measurement
from effnet_zoo.bench.settings import Settings
from effnet_zoo.zoo import catalogue

MACHINE = {
    "processor": "Some CPU",
    "processors": 2,
    "threads": 2,
    "instructions": "AVX512",
    "system": "Linux x86_64",
    "device": "cpu",
}


def measurement(measure: str, data: Mapping[str, Any], subject: str = "something", **changes: Any) -> Measurement:
    """A measurement with data."""
    values: dict[str, Any] = {
        "measure": measure,
        "subject": subject,
        "command": f"effnet-zoo bench --measure {measure}",
        "date": "2026-01-02",
        "machine": MACHINE,
        "versions": {"torch": "2.9.9", "timm": "1.0.99"},
        "data": dict(data),
    }
    return Measurement(**{**values, **changes})


def forward_measurement(
    measure: str, variant: str, seconds: dict[str, float], *, batch: int = 1, size: int = 224, **more: Any
) -> Measurement:
    """A measurement of the forward pass in which everyone took some seconds."""
    timings = {
        name: {"seconds": value, "p10": value * 0.9, "p90": value * 1.2, "calls": 9} for name, value in seconds.items()
    }
    timed = Data(results=timings)
    data = {
        "case": {
            "variant": variant,
            "size": size,
            "batch": batch,
            "dtype": "float32",
            "device": "cpu",
            "macs": catalogue.find_variant(variant).spec.macs(size=size),
        },
        "rounds": 3,
        "results": {
            name: {
                **one,
                "images_per_second": batch / one["seconds"],
                "of_ceiling": 0.25,
                "error": 1e-6,
            }
            for name, one in timings.items()
        },
        "ratios": referee.with_ratios(timed, referee.rivals(timed))["ratios"],
        "absent": {"geffnet": "No module named 'geffnet'"},
        "refused": {},
        "notes": {"timm": "as create_model gives it"},
        "ceiling": {"float32": 2e11, "copy": 2e10},
    }
    return measurement(measure, data, f"{variant}, {size} px, batch {batch}, float32, cpu", **more)


SECONDS = {
    "timm": 0.040,
    "timm channels_last": 0.025,
    "timm in OpenVINO": 0.010,
    "effnet_zoo": 0.020,
    "effnet_zoo optimized": 0.016,
    "effnet_zoo engine onnxruntime": 0.011,
    "effnet_zoo engine openvino": 0.008,
}


def everything() -> list[Measurement]:
    """One measurement at least of every measure."""
    timed = {"seconds": 1.0, "p10": 0.9, "p90": 1.1, "calls": 3}
    slower = {**timed, "seconds": 1.05}
    start = {"cold": timed, "warm": {**timed, "seconds": 0.5}, "imports": 0.4}
    same = {"photos": 4, "others": {}, "error": 1e-6}
    case = {"variant": "effnet_zoo_b0", "size": 224, "batch": 8, "dtype": "float32", "device": "cpu"}
    who = ("timm", "effnet_zoo", "timm checkpointed", "effnet_zoo checkpointed")
    return [
        measurement("ceiling", {"case": {"device": "cpu"}, "results": {"copy": {"bytes_per_second": 1e10}}}, "cpu"),
        forward_measurement("latency", "effnet_zoo_b0", SECONDS),
        forward_measurement("throughput", "effnet_zoo_b0", SECONDS, batch=8),
        measurement("training", {"case": case, "results": {name: {**timed, "saved_bytes": 3e6} for name in who}}),
        measurement(
            "files",
            {
                "case": {"set": "web", "width": 500, "height": 375, "files": 9, "workers": 2, "batch": 32},
                "results": {name: {**timed, "images_per_second": 9.0} for name in ("timm", "effnet_zoo")},
            },
        ),
        *(
            measurement(
                "loading",
                {
                    "case": {"variant": "effnet_zoo_b0", "place": place, "bytes": 21e6},
                    "results": {name: {**timed, "peak_over_weights": 2.0} for name in ("timm", "effnet_zoo")},
                },
                place,
            )
            for place in processes.PLACES
        ),
        measurement(
            "starting",
            {
                "case": {"variant": "effnet_zoo_b0", "size": 224},
                "results": {"timm": start, "effnet_zoo": start},
                "ratios": {"timm, cold": {"timm": 1.0, "effnet_zoo": 1.0}},
                "refused": {"effnet_zoo engine eager": "no"},
            },
        ),
        measurement(
            "starting",
            {
                "case": {"variant": "effnet_zoo_b0", "photo": {"width": 500, "height": 375}},
                "results": {"effnet_zoo predict": {**timed, "of_import_torch": 1.4}, "import torch": timed},
            },
            "effnet_zoo_b0, one photo",
        ),
        measurement("imports", {"case": {}, "results": {"timm": timed, "timm and effnet_zoo": slower}}),
        measurement(
            "agreement",
            {
                "case": {"photos": ["a", "b", "c", "d"]},
                "results": {
                    f"x, {dtype}": {"way": "x", "dtype": dtype, "same_label": 4, **same}
                    for dtype in ("float32", "bfloat16")
                },
            },
        ),
        measurement(
            "deployment",
            {
                "case": {"checkpoint": "x", "size": 224, "batch": 8},
                "results": {"onnx": {**timed, "file_bytes": 2e6, "making": 1.0, "same_label": 3, **same}},
                "ratios": {"fastest float32 (onnx)": {"onnx": 1.0}},
            },
        ),
        measurement("profile", {"case": case, "results": {"timm": {"kinds": {"convolution": 0.01, "others": 0.002}}}}),
        *(
            forward_measurement(
                "variant-curve", name, SECONDS, size=catalogue.find_variant(name).default.preprocessing.size[0]
            )
            for name in forward.VARIANT_CURVE.variants
        ),
        *(
            forward_measurement("batch-curve", "effnet_zoo_b0", SECONDS, batch=batch)
            for batch in forward.BATCH_CURVE.batches
        ),
        *(forward_measurement("size-curve", "effnet_zoo_b0", SECONDS, size=size) for size in forward.SIZE_CURVE.sizes),
    ]


def imports_data() -> Data:
    """Data of a measurement that was made at once."""
    timed = {"seconds": 1.0, "p10": 0.9, "p90": 1.1, "calls": 3}
    return {"case": {}, "results": {"timm": timed, "timm and effnet_zoo": timed}, "absent": {"ghost": "not installed"}}


def steps_of(*made: tuple[str, Callable[[], Data]]) -> Callable[[Settings], list[Step]]:
    """Steps of which each gives its data, whatever the settings are."""
    return lambda settings: [Step(measure="imports", subject=subject, run=make) for subject, make in made]
