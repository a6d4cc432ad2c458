"""A subnet computes the same inside the supernet and extracted, bit for bit."""

from __future__ import annotations

import pickle
import random

import pytest
import torch

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.measure.costs import count_params
from onceforall.ops.norm import ElasticBatchNorm2d
from onceforall.supernets.static import memory_format
from onceforall.supernets.supernet import Supernet
from tests.supernets.families import SPECS

NUM_RANDOM = {"mbv3_w1.2": 4, "resnet50": 1}  # 30 for the others


def archs_of(net: Supernet, count: int) -> list[Arch]:
    rng = random.Random(0)
    return [net.space.smallest, net.space.largest, *(net.space.sample(rng) for _ in range(count))]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SPECS)
def test_extraction_is_bitwise_equal(name: str) -> None:
    torch.manual_seed(0)
    net = Supernet(SPECS[name]()).eval()
    side = 64 if name.startswith(("mbv3", "proxyless")) else 32
    x = noise(4, 3, side, side)
    for arch in archs_of(net, NUM_RANDOM.get(name, 30)):
        # Without statistics of its own the signal of a deep net dies, and anything is equal.
        recalibrate_bn(net, [x], arch=arch)
        plain = net.extract(arch)
        with torch.no_grad():
            inside, outside = net(x, arch), plain(x)
        assert torch.equal(inside, outside), arch
        spread = (outside[0] - outside[1]).abs().mean()
        assert spread > 0.02 * outside.abs().mean() > 0, f"{arch}: the output ignores the input"
        assert not plain.training
        assert sum(p.numel() for p in plain.parameters()) == count_params(net.blueprint(arch))


def test_extraction_is_bitwise_equal_in_channels_last() -> None:
    net = Supernet(SPECS["mbv3_w1.0"]()).eval().to(memory_format=torch.channels_last)
    x = noise(4, 3, 64, 64).to(memory_format=torch.channels_last)
    arch = net.space.sample(random.Random(3))
    recalibrate_bn(net, [x], arch=arch)
    plain = net.extract(arch).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(net(x, arch), plain(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", [name for name in SPECS if NUM_RANDOM.get(name, 30) == 30])
def test_extraction_writes_every_tensor_and_draws_nothing(
    name: str, layout: torch.memory_format
) -> None:
    """It starts from memory as it is found, which this setting fills with NaN."""
    net = Supernet(SPECS[name]()).to(memory_format=layout)
    before = torch.get_rng_state()
    torch.use_deterministic_algorithms(True)
    try:
        for arch in archs_of(net, 3):
            state = net.extract(arch).state_dict()
            assert all(torch.isfinite(t).all() for t in state.values())
            counters = [t for key, t in state.items() if key.endswith("num_batches_tracked")]
            assert not any(counters)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_counts_once_for_every_norm_that_runs(name: str) -> None:
    net = Supernet(SPECS[name]()).train()
    ran: dict[str, int] = {}
    for key, module in net.named_modules():
        if isinstance(module, ElasticBatchNorm2d):
            module.register_forward_hook(lambda *_, key=key: ran.update({key: ran.get(key, 0) + 1}))
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        for arch in (net.space.smallest, net.space.sample(random.Random(1))):
            net(x, arch)
        net.eval()(x, net.space.largest)
    counted = {
        key: int(module.num_batches_tracked)
        for key, module in net.named_modules()
        if isinstance(module, ElasticBatchNorm2d)
    }
    evaluated = {key: ran.get(key, 0) - n for key, n in counted.items()}
    assert set(evaluated.values()) == {1}  # every norm is in the largest, and that did not count


@pytest.mark.parametrize("name", ["small_images", "residual", "small_resnet"])
def test_statistics_go_back_to_the_channels_that_run(name: str) -> None:
    net = Supernet(SPECS[name]()).eval()
    arch, x = net.space.sample(random.Random(2)), noise(4, 3, 32, 32)
    plain = net.extract(arch)
    recalibrate_bn(plain, [x])
    net.set_statistics(arch, plain)
    with torch.no_grad():
        assert torch.equal(net(x, arch), plain(x))
    assert all(
        torch.equal(t, net.extract(arch).state_dict()[key]) for key, t in plain.state_dict().items()
    )


@pytest.mark.parametrize("name", ["small_images", "mbv3_w1.0"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_extraction_keeps_the_layout_and_so_the_bits(
    name: str, layout: torch.memory_format
) -> None:
    """Images of either layout: a network's own layout decides which kernels run."""
    torch.manual_seed(0)
    net = Supernet(SPECS[name]()).eval().to(memory_format=layout)
    x = noise(4, 3, 32, 32)
    for arch in archs_of(net, 2):
        recalibrate_bn(net, [x], arch=arch)
        plain = net.extract(arch)
        assert memory_format(plain) == memory_format(net) == layout
        for images in (x, x.to(memory_format=torch.channels_last)):
            with torch.no_grad():
                assert torch.equal(net(images, arch), plain(images)), arch


def test_extraction_copies_and_does_not_share() -> None:
    net = Supernet(SPECS["small_images"]()).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plain = net.extract(net.space.largest)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(1)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_extraction_keeps_dtype_and_training_of_the_supernet() -> None:
    net = Supernet(SPECS["small_images"]()).double().train()
    plain = net.extract(net.space.smallest)
    assert {p.dtype for p in plain.parameters()} == {torch.float64}
    assert net.training
    assert not plain.training


def test_an_expand_ratio_of_1_among_others_keeps_its_expansion() -> None:
    net = Supernet(SPECS["ratio_1"]())
    plan = net.blueprint(net.space.uniform(expand_ratio=1))
    assert all(block.has_expansion for block in plan.blocks)


def test_equal_archs_run_alike_whatever_is_switched_off() -> None:
    net = Supernet(SPECS["mbv3_w1.0"]()).eval()
    x = noise(2, 3, 64, 64)
    arch = net.space.sample(random.Random(0))
    same = Arch.from_json(arch.to_json())
    assert same == arch
    with torch.no_grad():
        assert torch.equal(net(x, arch), net(x, same))


def test_an_arch_of_another_space_is_refused() -> None:
    net = Supernet(SPECS["small_images"]())
    with pytest.raises(ArchError, match="arch has 5 stages where the space has 3"):
        net(noise(1, 3, 32, 32), Supernet(SPECS["mbv3_w1.0"]()).space.largest)


def test_plain_networks_can_be_pickled() -> None:
    net = Supernet(SPECS["small_images"]()).eval()
    plain = net.extract(net.space.largest)
    again = pickle.loads(pickle.dumps(plain))
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), plain(x))


@pytest.mark.parametrize("name", ["small_images", "small_resnet", "mixed_head"])
def test_sorting_channels_leaves_the_largest_subnet_alone(name: str) -> None:
    torch.manual_seed(0)
    net = Supernet(SPECS[name]()).double().eval()
    x = noise(4, 3, 32, 32).double()
    largest = net.space.largest
    recalibrate_bn(net, [x], arch=largest)
    smaller = net.space.uniform(expand_ratio=net.space.stages[0].expand_ratios[0])
    with torch.no_grad():
        before, before_smaller = net(x, largest), net(x, smaller)
        net.sort_channels()
        torch.testing.assert_close(net(x, largest), before, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(net(x, smaller), before_smaller)


@pytest.mark.parametrize("name", ["mbv3_w1.0", "small_resnet"])
def test_what_does_not_run_gets_no_gradient(name: str) -> None:
    net = Supernet(SPECS[name]()).train()
    net(noise(2, 3, 64, 64), net.space.smallest).sum().backward()
    active = {id(module) for module in net.active_modules(net.space.smallest)}
    for module in net.layers:
        grads = [p.grad for p in module.parameters()]
        if id(module) not in active:
            assert all(grad is None for grad in grads)
        elif grads:
            assert any(grad is not None for grad in grads)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
def test_a_supernet_compiles_into_one_graph() -> None:
    net = Supernet(SPECS["small_images"]()).eval()
    arch = net.space.uniform(kernel_size=5, expand_ratio=3, depth=2)
    compiled = torch.compile(lambda x: net(x, arch), fullgraph=True, backend="aot_eager")
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x, arch))
