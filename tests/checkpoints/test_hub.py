"""Fetching from the Hub with the real client, and torch.hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from effnet_zoo import EfficientNet
from effnet_zoo.numerics import randomise
from effnet_zoo.zoo import catalogue
from tests import loopback

ROOT = Path(__file__).parents[2]
NAMES = [model.hub_name for model in catalogue.models().values()]


def run_python(code: str, *, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where environment variables read at import are what is given."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


FETCH = """
import timm, torch, effnet_zoo
x = torch.ones(1, 3, 64, 64)
model = timm.create_model("effnet_zoo_b0", pretrained=True).eval()
print(model.pretrained_cfg["tag"], float(model(x).double().sum().detach()))
print(float(effnet_zoo.EfficientNet.from_pretrained("efficientnet-b0", advprop=True).eval()(x).double().sum().detach()))
try:
    timm.create_model("effnet_zoo_b0.aa_in1k", pretrained=True)
except effnet_zoo.EffnetZooError as error:
    print(error)
"""


def test_pretrained_weights_come_from_the_hub_by_tag(tmp_path: Path) -> None:
    models = [randomise(EfficientNet.from_name("effnet_zoo_b0"), seed=seed).eval() for seed in (1, 2)]
    default, advprop = (save(model.state_dict()) for model in models)
    with loopback.serve() as hub:
        hub.put("timm/tf_efficientnet_b0.ns_jft_in1k", {"model.safetensors": default})
        hub.put("timm/tf_efficientnet_b0.ap_in1k", {"model.safetensors": advprop})
        result = run_python(FETCH, cwd=tmp_path, environment=hub.environment(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    first, second, refused = result.stdout.splitlines()
    sums = [float(model(torch.ones(1, 3, 64, 64)).double().sum().detach()) for model in models]
    assert first.split()[0] == "ns_jft_in1k"
    assert float(first.split()[1]) == pytest.approx(sums[0], rel=1e-5)
    assert float(second) == pytest.approx(sums[1], rel=1e-5)
    assert refused.startswith("cannot get model.safetensors of timm/tf_efficientnet_b0.aa_in1k (revision main)")
    assert not [request for request in hub.requests if "pytorch_model" in request.path], "it fell back to a pickle"


PINNED = """
import dataclasses
from effnet_zoo.zoo import catalogue
from effnet_zoo import errors
from effnet_zoo.checkpoints import locate
checkpoint = dataclasses.replace(catalogue.find("effnet_zoo_b0")[1], revision={revision!r}, sha256={sha256!r})
try:
    print(locate.obtain(locate.of_checkpoint(checkpoint)).read_bytes())
except errors.WeightsError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("sha256", "outcome"),
    [
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "b'test'"),  # of b"test"
        (
            "0" * 64,
            f"both times not the file that the ledger names: expected sha256 {'0' * 64}, got 9f86d081",
        ),
    ],
)
def test_a_pinned_checkpoint_is_fetched_by_commit_and_its_whole_hash_checked(
    tmp_path: Path, sha256: str, outcome: str
) -> None:
    repository = "timm/tf_efficientnet_b0.ns_jft_in1k"
    with loopback.serve() as hub:
        commit = hub.put(repository, {"model.safetensors": b"test"})
        hub.put(repository, {"model.safetensors": b"newer"})
        code = PINNED.format(revision=commit, sha256=sha256)
        result = run_python(code, cwd=tmp_path, environment=hub.environment(tmp_path / "home"))
    assert outcome in result.stdout, result.stderr
    assert f"HEAD /{repository}/resolve/{commit}/model.safetensors" in [str(request) for request in hub.requests]


@pytest.mark.parametrize("name", NAMES)
def test_every_torch_hub_entry_loads(name: str) -> None:
    model = torch.hub.load(str(ROOT), name, source="local", device="meta", num_classes=5, pretrained=None)
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 5)


def test_torch_hub_takes_a_tag_as_pretrained() -> None:
    model = torch.hub.load(str(ROOT), "efficientnet_lite0", source="local", pretrained="pypi_in1k")
    assert model.pretrained_cfg["tag"] == "pypi_in1k"


CACHED = """
import json, torch
where = dict(github='org/effnet-zoo:main', trust_repo=True, skip_validation=True)
names = torch.hub.list(**where)
text = torch.hub.help(model='efficientnetv2_s', **where)
model = torch.hub.load('org/effnet-zoo:main', 'efficientnetv2_s', trust_repo=True, skip_validation=True)
import effnet_zoo, effnet_zoo.zoo.ledger
parameters = sum(p.numel() for p in model.parameters())
print(json.dumps([names, text, effnet_zoo.__file__, str(effnet_zoo.zoo.ledger.FOLDER), parameters]))
"""


def test_torch_hub_works_from_a_repository_unpacked_in_its_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "org_effnet-zoo_main"
    for part in ("effnet_zoo", "weights"):
        shutil.copytree(ROOT / part, repository / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", repository)
    offline = {"TORCH_HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    result = run_python(CACHED, cwd=tmp_path, environment=offline)
    assert result.returncode == 0, result.stderr
    names, text, package, ledger, parameters = json.loads(result.stdout)
    assert sorted(names) == sorted(NAMES)
    assert "21.5 M parameters, 384 px; tags in21k_ft_in1k, in1k, in21k" in text
    assert package == str(repository / "effnet_zoo" / "__init__.py")
    assert ledger == str(repository / "weights")
    assert parameters == 21_458_488
