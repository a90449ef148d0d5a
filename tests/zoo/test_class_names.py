"""Names of classes: ImageNet's, as timm lists them, and a checkpoint's own."""

import subprocess
import sys

import pytest
from timm.data import ImageNetInfo, infer_imagenet_subset

from effnet_zoo.zoo.class_names import class_names


@pytest.mark.parametrize("num_classes", [1000, 11221, 11821, 21841, 21842, 21843])
def test_imagenet_names_are_timms(num_classes: int) -> None:
    subset = infer_imagenet_subset({"num_classes": num_classes})
    assert class_names(num_classes) == ImageNetInfo(subset).label_descriptions()


def test_no_other_number_of_classes_is_imagenets_to_timm() -> None:
    known = [number for number in range(30_000) if infer_imagenet_subset({"num_classes": number})]
    assert known == [1000, 11221, 11821, 21841, 21842, 21843]
    assert class_names(3) == ["class 0", "class 1", "class 2"]


def test_names_of_another_number_of_classes_are_not_replaced_by_imagenets() -> None:
    assert class_names(1000, ["cat", "dog"])[:2] == ["class 0", "class 1"]
    assert class_names(1000)[281] == "tabby, tabby cat"
    assert class_names(2, ["cat", "dog"]) == ["cat", "dog"]


def test_names_are_read_without_importing_timm_or_torch() -> None:
    probe = """
import sys
sys.modules["_effnet_zoo_command"] = None
sys.argv = ["effnet-zoo"]
from effnet_zoo.zoo.class_names import class_names
print(class_names(1000)[0], sorted({"torch", "timm"} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout == "tench, Tinca tinca []\n"
