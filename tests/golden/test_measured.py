"""Published measurements: 2,373 ImageNet subnets, and the published ResNet predictor."""

from __future__ import annotations

import ast
import csv

import numpy as np
import pytest

from onceforall.encoding import Encoding
from onceforall.measure.cost_tables import compile_costs
from onceforall.predictors.published import read_published_predictor
from onceforall.published_archs import arch_from_published
from onceforall.supernets.families import mobilenet_v3, resnet50d
from tests.shared_data import shared_data


def test_every_measured_subnet_has_our_params_and_macs() -> None:
    rows = [
        row
        for path in sorted(shared_data("measured").glob("*.csv"))
        for row in csv.DictReader(path.read_text().splitlines())
    ]
    assert len(rows) == 2373
    spec = mobilenet_v3()
    archs = [
        arch_from_published(spec.space, ast.literal_eval(row["Sub-network"]), resolution=224)
        for row in rows
    ]
    assert len(set(archs)) == 2162
    costs = compile_costs(spec)
    population = Encoding(spec.space).from_archs(archs)
    expected = np.array([(int(r["Model Parameters"]), int(r["MACs"])) for r in rows])
    assert np.array_equal(costs.params(population), expected[:, 0])
    assert np.array_equal(costs.macs(population), expected[:, 1])


def test_the_published_resnet_predictor_gives_its_figures() -> None:
    predictor = read_published_predictor(shared_data("published", "ofa_resnet50_acc_predictor.pth"))
    sizes = (128, 144, 160, 176, 192, 224)
    space = resnet50d(resolutions=sizes).space
    largest, smallest = predictor.predict([space.largest, space.smallest], space)
    assert float(largest) == pytest.approx(0.82987, abs=6e-6)
    assert float(smallest) == pytest.approx(0.74794, abs=6e-6)
