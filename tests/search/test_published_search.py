"""Searches with published predictors: every family with its own image sizes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onceforall.errors import OnceForAllError
from onceforall.job.tasks.published_search import PublishedRequest, search_published
from onceforall.predictors.published import RESNET_IMAGE_SIZES, read_published_predictor
from onceforall.space import SearchSpace
from onceforall.supernets.families import published_spec
from tests.cli.command import ofa
from tests.shared_data import shared_data


def write_predictor(path: Path, *, resnet: bool) -> Path:
    """Write a predictor of the published form with small random weights."""
    generator = torch.Generator().manual_seed(0)
    names = ("layers.0.0", "layers.1.0", "layers.2.0", "layers.3") if resnet else "0246"
    sizes = [82 if resnet else 128, 8, 8, 8, 1]
    state = {}
    for name, inputs, outputs in zip(names, sizes, sizes[1:], strict=False):
        state[f"{name}.weight"] = 0.1 * torch.randn(outputs, inputs, generator=generator)
        state[f"{name}.bias"] = torch.zeros(outputs)
    if resnet:
        del state["layers.3.bias"]
        state["base_acc"] = torch.tensor([0.7])
    torch.save(state, path)
    return path


def request(net: str, predictor: Path) -> PublishedRequest:
    return PublishedRequest(
        net=net, predictor=predictor, latency=None, limits={"macs": [3e9]}, budget_s=0.5
    )


def test_resnet_is_searched_with_its_own_predictor(tmp_path: Path) -> None:
    predictor = write_predictor(tmp_path / "p.pth", resnet=True)
    (found,) = search_published(request("ofa_resnet50", predictor))
    assert found.macs <= 3e9
    assert found.arch.resolution in RESNET_IMAGE_SIZES


@pytest.mark.parametrize(
    ("net", "is_resnet"),
    [
        ("ofa_mbv3_d234_e346_k357_w1.0", True),
        ("ofa_resnet50", False),
        ("ofa_proxyless_d234_e346_k357_w1.3", False),  # as many choices a block, one block more
    ],
)
def test_a_predictor_of_another_family_is_refused(
    net: str, is_resnet: bool, tmp_path: Path
) -> None:
    predictor = write_predictor(tmp_path / "p.pth", resnet=is_resnet)
    with pytest.raises(OnceForAllError, match="has no feature in this layout"):
        search_published(request(net, predictor))


def test_it_shows_how_far_it_is_and_stops_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evolve(problem: Any, *, progress: Any, **settings: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        progress(1, 10)
        raise AssertionError("it went on")

    monkeypatch.setattr("onceforall.job.tasks.published_search.evolve", evolve)
    predictor = write_predictor(tmp_path / "p.pth", resnet=False)
    answer = ofa("search", "--net", "ofa_mbv3_d234_e346_k357_w1.0", "--predictor", predictor)
    assert answer.status == 130 and answer.out == ""
    assert "search 1/10" in answer.err and "stopped at search" in answer.err


def test_the_released_predictor_says_its_scale_and_answers_at_sizes_that_it_knows() -> None:
    released = shared_data("published", "acc_predictor.pth")
    net = "ofa_mbv3_d234_e346_k357_w1.2"
    command = ("search", "--net", net, "--predictor", released, "--limit", "macs=2.2e8")
    answer = ofa(*command, "--budget", "1s", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["arch"]["resolution"] >= 160 and found["predicted_top1"] < 0.83
    assert "5.8 to 6 points above" in found["scale"]
    assert found["scale"] in ofa(*command, "--budget", "1s").out

    # What it says of sizes that it was never trained with: smaller images, better networks.
    predictor, arch = read_published_predictor(released), published_spec(net).space.largest
    top1 = {
        side: float(predictor.predict([replace(arch, resolution=side)], sized(net, side))[0])
        for side in (128, 160, 224)
    }
    assert top1[128] > top1[160] < top1[224]
    assert predictor.known_sizes == (160, 176, 192, 208, 224)


def sized(net: str, side: int) -> SearchSpace:
    return published_spec(net).space.restrict(resolution=[side])


def test_a_predictor_of_ones_own_says_that_its_scale_is_its_own(tmp_path: Path) -> None:
    predictor = write_predictor(tmp_path / "p.pth", resnet=True)
    (found,) = search_published(request("ofa_resnet50", predictor))
    assert found.scale is not None and "own training" in found.scale


def test_a_table_of_another_width_says_which_it_fits(tmp_path: Path) -> None:
    tables = shared_data("published", "note10")
    predictor = write_predictor(tmp_path / "p.pth", resnet=False)
    answer = ofa(
        *("search", "--net", "ofa_mbv3_d234_e346_k357_w1.0", "--predictor", predictor),
        *("--latency-table", tables, "--limit", "latency_ms=20"),
    )
    assert answer.status == 2
    assert "are not of ofa_mbv3_d234_e346_k357_w1.0: this table fits ofa_mbv3" in answer.err
    assert "fits ofa_mbv3_d234_e346_k357_w1.2\n" in answer.err
