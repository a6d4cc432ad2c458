"""BN recalibration: exact statistics, both estimators, nothing else changed, whatever happens."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from onceforall.errors import MeasurementError
from onceforall.measure.calibrate import Estimator, recalibrate_bn
from tests.training.tiny import SPEC, tiny_net

IMAGES = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def one_norm() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3)).double()


def test_population_statistics_do_not_depend_on_how_images_are_batched() -> None:
    expected_mean = IMAGES.mean(dim=(0, 2, 3))
    expected_var = IMAGES.var(dim=(0, 2, 3), unbiased=False)
    for sizes in ([30], [10, 20], [1, 2, 27], [7, 7, 7, 9]):
        model = one_norm()
        recalibrate_bn(model, IMAGES.split(sizes), estimator="population")
        torch.testing.assert_close(model[0].running_mean, expected_mean)
        torch.testing.assert_close(model[0].running_var, expected_var)


def test_population_statistics_survive_a_large_mean() -> None:
    images = (50 + 0.01 * IMAGES).float()
    model = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate_bn(model, images.split(7), estimator="population")
    expected = images.double().var(dim=(0, 2, 3), unbiased=False).float()
    torch.testing.assert_close(model[0].running_var, expected, rtol=0.05, atol=0)


def test_published_statistics_average_within_batches() -> None:
    batches = (IMAGES[:10], 2 * IMAGES[10:, :, :4, :4] + 1)
    model = one_norm()
    recalibrate_bn(model, batches)
    means = [b.mean(dim=(0, 2, 3)) for b in batches]
    variances = [b.var(dim=(0, 2, 3), unbiased=False) for b in batches]
    torch.testing.assert_close(model[0].running_mean, (10 * means[0] + 20 * means[1]) / 30)
    torch.testing.assert_close(model[0].running_var, (10 * variances[0] + 20 * variances[1]) / 30)


def test_a_recalibrated_supernet_and_its_extract_agree_bit_by_bit() -> None:
    net = tiny_net()
    arch = SPEC.space.sample(random.Random(1))
    plain = net.extract(arch)
    images = IMAGES.float()
    recalibrate_bn(plain, [images])
    recalibrate_bn(net, [images], arch=arch)
    net.eval()
    y = net(images, arch)
    assert torch.equal(y, plain(images))
    assert torch.equal(y, net.extract(arch)(images))
    assert float(y.detach().std(dim=0).max()) > 1e-3  # the outputs depend on the images


@pytest.mark.parametrize("estimator", ["published", "population"])
@pytest.mark.parametrize("num_shares", [2, 3, 6])
def test_shared_batches_give_the_bits_of_one_process(num_shares: int, estimator: Estimator) -> None:
    """Uneven batches of uneven numbers; of six processes two have none."""
    net, arch = tiny_net(), SPEC.space.sample(random.Random(2))
    batches = IMAGES.float().split([10, 1, 12, 7])
    alone = net.extract(arch)
    recalibrate_bn(alone, batches, estimator=estimator)
    sent: list[Tensor] = []

    class Sent(Exception):
        pass

    def send(rows: Tensor) -> Tensor:
        sent.append(rows)
        raise Sent

    for share in range(num_shares):
        with pytest.raises(Sent):
            recalibrate_bn(net.extract(arch), batches[share::num_shares], gather=send)
    in_turn = [sent[k % num_shares][k // num_shares] for k in range(len(batches))]
    for share in range(num_shares):
        shared = net.extract(arch)
        recalibrate_bn(
            shared,
            batches[share::num_shares],
            estimator=estimator,
            gather=lambda rows: torch.stack(in_turn),
        )
        for name, tensor in alone.state_dict().items():
            assert torch.equal(tensor, shared.state_dict()[name]), name


def everything(model: nn.Module) -> tuple[list[Tensor], list[bool], list[object], int]:
    norms = [m for m in model.modules() if hasattr(m, "momentum")]
    return (
        [t.clone() for t in model.state_dict().values()],
        [m.training for m in model.modules()],
        [m.momentum for m in norms],
        sum(len(m._forward_hooks) for m in model.modules()),
    )


@pytest.mark.parametrize("fail_at", [0, 2])
def test_a_loader_that_fails_leaves_the_network_as_it_was(fail_at: int) -> None:
    net = tiny_net().train()
    net.layers[1].eval()
    before = everything(net)

    def loader():
        for index in range(3):
            if index == fail_at:
                raise OSError("disk gone")
            yield IMAGES.float()

    with pytest.raises(OSError, match="disk gone"):
        recalibrate_bn(net, loader(), arch=SPEC.space.largest)
    after = everything(net)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


def test_flags_counters_and_other_channels_stay() -> None:
    net = tiny_net().train()
    smallest = SPEC.space.smallest
    before = everything(net)
    recalibrate_bn(net, [IMAGES.float()], arch=smallest)
    assert everything(net)[1:] == before[1:]
    stem = net.layers[0].bn
    channels = net.blueprint(smallest).stem[0].out_channels
    assert float(stem.running_mean[:channels].abs().sum()) > 0
    assert torch.equal(stem.running_mean[channels:], torch.zeros_like(stem.running_mean[channels:]))
    assert int(stem.num_batches_tracked) == 0


def test_no_batch_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="at least 1 batch"):
        recalibrate_bn(one_norm(), [])


def test_an_arch_for_a_plain_network_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="not a supernet"):
        recalibrate_bn(one_norm(), [IMAGES], arch=SPEC.space.largest)


def test_a_last_batch_of_one_value_per_channel_is_left_out() -> None:
    """One image on a 1x1 map has no variance: 0/0 in one kernel, an error in another."""
    images = IMAGES[:, :, :1, :1].contiguous()
    for estimator in ("published", "population"):
        found, expected = one_norm(), one_norm()
        recalibrate_bn(found, [images[:29], images[29:]], estimator=estimator)
        recalibrate_bn(expected, [images[:29]], estimator=estimator)
        assert torch.equal(found[0].running_mean, expected[0].running_mean)
        assert torch.equal(found[0].running_var, expected[0].running_var)


@pytest.mark.parametrize("in_place", [True, False])
def test_one_value_per_channel_is_left_out_of_deep_norms_alone(in_place: bool) -> None:
    """At 8 pixels the last norms of the network see 1x1 maps, the first ones see larger."""
    net = tiny_net()
    arch = SPEC.space.restrict(resolution=(8,)).largest
    model = net.extract(arch) if in_place else nn.Sequential(net.extract(arch))
    images = IMAGES.float()[:, :, :2, :2]
    recalibrate_bn(model, [images[:29], images[29:]])
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        assert torch.isfinite(norm.running_mean).all() and torch.isfinite(norm.running_var).all()


def test_nothing_but_single_values_is_an_error_and_changes_nothing() -> None:
    model = one_norm()
    before = everything(model)
    with pytest.raises(MeasurementError, match="one value per channel"):
        recalibrate_bn(model, IMAGES[:, :, :1, :1].split(1))
    after = everything(model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))


@pytest.mark.parametrize("of_ours", [True, False])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_old_statistics_have_no_influence(value: float, of_ours: bool) -> None:
    arch = SPEC.space.largest
    broken, sound = tiny_net().extract(arch), tiny_net().extract(arch)
    for norm in (m for m in broken.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean[0] = norm.running_var[0] = value
    models = [m if of_ours else nn.Sequential(m) for m in (broken, sound)]
    for model in models:
        recalibrate_bn(model, [IMAGES.float()])
    for a, b in zip(broken.state_dict().values(), sound.state_dict().values(), strict=True):
        assert torch.equal(a, b)
