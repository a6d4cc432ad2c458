"""Phases: what each of them trains, and entering training at one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onceforall.errors import ConfigError
from onceforall.job.config import own_phases, phase_settings
from onceforall.job.sections import PhaseConfig
from onceforall.supernets.families import mobilenet_v3, ofanet
from onceforall.supernets.supernet import Supernet
from onceforall.training.engine import train
from onceforall.training.freezing import Part
from onceforall.training.plan import Opened, Phase, Plan, delayed_plan, sandwich_plan
from onceforall.training.ranks import Ranks, sum_gradients
from onceforall.training.settings import Callbacks, EpochEnd, TrainOptions
from onceforall.training.shrinking import progressive_plan, published_plan
from tests.training.tiny import SPEC, tiny_batches, tiny_net

CHAIN = replace(
    progressive_plan(SPEC.space, epochs=5, learning_rate=0.1, reference_batch=16), ema_decay=0.9
)
NAMES = [phase.name for phase in CHAIN.phases]


def run(net: Supernet, plan: Plan, folder: Path, **how: object) -> Supernet:
    train(net, plan, tiny_batches(), folder=folder, options=TrainOptions(seed=0), **how)
    return net


def state_of(net: Supernet) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module")
def chained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Tensor], dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    """The end of a chained run, and the state and averages that each of its phases left."""
    left = {}

    def keep(end: EpochEnd) -> dict[str, object]:
        if end.ends_phase:
            averages = {name: value.clone() for name, value in end.average.items()}
            left[end.phase.name] = (state_of(end.net), averages)
        return {}

    net = tiny_net()
    run(net, CHAIN, tmp_path_factory.mktemp("chain"), callbacks=Callbacks(after_epoch=keep))
    return state_of(net), left


@pytest.mark.parametrize("phase", range(1, len(NAMES)), ids=lambda i: NAMES[i])
def test_entering_at_a_phase_gives_the_bits_of_the_chain(
    chained: tuple, phase: int, tmp_path: Path
) -> None:
    end, left = chained
    state, average = left[NAMES[phase - 1]]
    net, teacher = tiny_net(seed=1), tiny_net(seed=2)
    net.load_state_dict(state)
    teacher.load_state_dict(left[NAMES[0]][0])
    run(net, CHAIN, tmp_path, start_at=NAMES[phase], average=average, teacher=teacher)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, end[name]), name


def test_a_chain_may_teach_itself_where_it_is_entered(chained: tuple, tmp_path: Path) -> None:
    """Right after the first phase the network is the teacher."""
    end, left = chained
    net = tiny_net(seed=1)
    net.load_state_dict(left["full"][0])
    run(net, CHAIN, tmp_path, start_at=NAMES[1], average=left["full"][1])
    assert all(torch.equal(tensor, end[name]) for name, tensor in net.state_dict().items())


def test_an_unknown_phase_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phase 'width' is not one of full, kernel_size 2"):
        run(tiny_net(), CHAIN, tmp_path, start_at="width")


def of_part(part: Part, **how: object) -> Plan:
    phase = Phase(
        name="part", epochs=2, learning_rate=0.5, subnets_per_step=2, trainable=part, **how
    )
    return Plan(
        name="part",
        phases=(phase,),
        reference_batch=16,
        weight_decay=0.1,
        decay_transforms=True,
        ema_decay=0.9,
    )


def changed_by(plan: Plan, folder: Path, net: Supernet) -> tuple[set[str], set[str]]:
    """Return the tensors that training changes, in the network and in its averages."""
    before, averages = state_of(net), {}

    def look(end: EpochEnd) -> dict[str, object]:
        averages.update({name: value.clone() for name, value in end.average.items()})
        for name, tensor in end.net.state_dict().items():
            if not torch.equal(tensor, before[name]):
                found.add(name)
        return {}

    found: set[str] = set()
    # An average that lags behind would move towards the weights, were it not left alone.
    lag = {name: p.detach() + 0.25 for name, p in net.named_parameters()}
    run(net, plan, folder, callbacks=Callbacks(after_epoch=look), average=lag)
    return found, {n for n, value in averages.items() if not torch.equal(value, lag[n])}


@pytest.mark.parametrize("opened", [Opened(), Opened(kernel_size=(3,)), Opened(kernel_size=1)])
def test_with_only_transforms_learning_everything_else_keeps_its_bits(
    opened: Opened, tmp_path: Path
) -> None:
    net = tiny_net()
    changed, averaged = changed_by(of_part("transforms", opened=opened), tmp_path, net)
    transforms = {name for name, _ in net.named_parameters() if ".transforms." in name}
    # The largest kernel has no transform: with it alone nothing learns.
    assert changed == (set() if opened.kernel_size == 1 else transforms)
    assert averaged == transforms
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_ranks_exchange_numbers_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(2))
    numbers, still = torch.tensor([1.0, 3.0]), torch.nn.Parameter(torch.zeros(2))
    found = sum_gradients([still], numbers, Ranks(rank=0, world_size=2))
    assert found.tolist() == [2.0, 6.0] and numbers.tolist() == [1.0, 3.0]


def test_with_only_the_classifier_learning_no_other_parameter_changes(tmp_path: Path) -> None:
    net = tiny_net()
    changed, averaged = changed_by(of_part("classifier"), tmp_path, net)
    changed &= dict(net.named_parameters()).keys()
    assert changed == averaged == {name for name, _ in net.named_parameters() if ".linear." in name}


def test_a_network_without_transforms_cannot_learn_them(tmp_path: Path) -> None:
    net = Supernet(replace(SPEC, stages=tuple(replace(s, kernel_sizes=(3,)) for s in SPEC.stages)))
    with pytest.raises(ConfigError, match="one kernel size and no transforms"):
        run(net, of_part("transforms"), tmp_path)


@pytest.mark.parametrize("num_opened", [0, 1])
def test_sorting_channels_leaves_the_largest_networks_outputs(num_opened: int) -> None:
    torch.manual_seed(0)
    net = Supernet(ofanet())
    for module in net.modules():  # statistics and scales of their own, or nothing is told apart
        if hasattr(module, "running_var"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    images, largest = torch.randn(2, 3, 32, 32), net.space.largest
    before = net.eval()(images, largest)
    weights = state_of(net)
    net.sort_channels(num_opened=num_opened)
    after = net(images, largest)
    assert (after - before).abs().max() <= 1e-6 * before.abs().max()
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


MBV3 = mobilenet_v3().space
PRESETS = {
    "published": published_plan(MBV3),
    "progressive": progressive_plan(MBV3, epochs=50, learning_rate=0.1, reference_batch=64),
    "sandwich": sandwich_plan(epochs=10, learning_rate=0.1, reference_batch=64),
    "delayed": delayed_plan(epochs=10, learning_rate=0.1, reference_batch=64),
}


@pytest.mark.parametrize("plan", PRESETS.values(), ids=PRESETS)
def test_the_phases_of_a_plan_are_data_that_gives_them_back(plan: Plan) -> None:
    phases = [PhaseConfig.model_validate(values) for values in phase_settings(plan)]
    assert own_phases(phases, epochs=None) == plan.phases


def test_phases_of_ones_own_are_scaled_in_proportion() -> None:
    phases = [
        PhaseConfig(name="full", epochs=8, learning_rate=1, warmup_epochs=2, draw="largest"),
        PhaseConfig(name="rest", epochs=2, learning_rate=0.1, opened={"kernel_size": [5]}),
    ]
    full, rest = own_phases(phases, epochs=1)
    assert (full.epochs, full.warmup_epochs, rest.epochs) == pytest.approx((0.8, 0.2, 0.2))
    assert rest.opened.restrict(MBV3).stages[0].kernel_sizes == (5,)


def test_phase_settings_have_the_fields_of_a_phase() -> None:
    # Attentive draws have a setting of their own.
    fields = set(Phase.__dataclass_fields__) - {"attentive", "attentive_candidates"}
    assert fields == set(PhaseConfig.model_fields)
