"""Stages and networks for the tests of this folder."""

import dataclasses
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from effnet_zoo.arch.families import FAMILIES
from effnet_zoo.arch.notation import (
    StageSpec,
)
from effnet_zoo.arch.spec import ArchSpec, variant_spec

# The machines that run this are shared: a slow example is no failure.
examples = settings(deadline=None, max_examples=200)


VALID = "r2_k3_s22_e6_i16_o24_se0.25"


def stage_spec(**changes: Any) -> StageSpec:
    return dataclasses.replace(
        StageSpec(repeats=2, kernel=3, stride=2, expand=6, in_filters=16, out_filters=24, se_ratio=0.25), **changes
    )


def network(name: str) -> ArchSpec:
    """A declared network by the name of its timm model without our prefix."""
    return next(
        variant_spec(family, variant)
        for family in FAMILIES
        for variant in family.variants
        if (family.timm_prefix + variant.name).removeprefix("effnet_zoo_") == name
    )


whole_numbers = st.integers(1, 999_999)
