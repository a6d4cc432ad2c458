"""Searches with published predictors: every family with its own image sizes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from onceforall.errors import OnceForAllError
from onceforall.job.published_search import PublishedRequest, search_published
from onceforall.predictors.published import RESNET_IMAGE_SIZES
from tests.cli.command import ofa


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


@pytest.mark.parametrize("is_resnet", [True, False])
def test_a_predictor_of_another_family_is_refused(is_resnet: bool, tmp_path: Path) -> None:
    predictor = write_predictor(tmp_path / "p.pth", resnet=is_resnet)
    net = "ofa_mbv3_d234_e346_k357_w1.0" if is_resnet else "ofa_resnet50"
    with pytest.raises(OnceForAllError, match="has no feature in this layout"):
        search_published(request(net, predictor))


def test_it_shows_how_far_it_is_and_stops_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evolve(problem: Any, *, progress: Any, **settings: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        progress(1, 10)
        raise AssertionError("it went on")

    monkeypatch.setattr("onceforall.job.published_search.evolve", evolve)
    predictor = write_predictor(tmp_path / "p.pth", resnet=False)
    answer = ofa("search", "--net", "ofa_mbv3_d234_e346_k357_w1.0", "--predictor", predictor)
    assert answer.status == 130 and answer.out == ""
    assert "search 1/10" in answer.err and "stopped during the search" in answer.err
