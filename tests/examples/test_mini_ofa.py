"""``examples/mini_ofa.py``: its subnets are the library's, and it does what it says."""

from __future__ import annotations

import copy
import importlib.util
import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import onceforall as ofa
from onceforall.supernets.spec import MBConvSpec, MBConvStage
from onceforall.training.plan import Phase, Plan
from onceforall.training.ranks import Ranks
from onceforall.training.step import StepContext, accumulate_gradients

FILE = Path(__file__).parents[2] / "examples" / "mini_ofa.py"
SOURCE = FILE.read_text()


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini_ofa", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mini_ofa"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mini = load()


def table() -> MBConvSpec:
    """Return the library's stage table of the same networks."""
    return MBConvSpec(
        num_classes=mini.NUM_CLASSES,
        in_channels=1,
        resolutions=(mini.RESOLUTION,),
        stem_width=mini.STEM_WIDTH,
        stem_stride=1,
        stem_activation="h_swish",
        head_activation="h_swish",
        expand_width=mini.HEAD_WIDTH,
        stages=tuple(
            MBConvStage(
                width=width,
                stride=stride,
                activation="h_swish",
                num_blocks=max(mini.DEPTHS),
                depths=mini.DEPTHS,
                kernel_sizes=tuple(sorted(mini.KERNEL_SIZES)),
                expand_ratios=mini.EXPAND_RATIOS,
            )
            for width, stride in mini.STAGES
        ),
    )


def to_library(arch: object) -> ofa.Arch:
    stages = arch.stages  # type: ignore[attr-defined]
    return ofa.Arch(
        resolution=mini.RESOLUTION,
        depth=tuple(len(stage) for stage in stages),
        kernel_size=tuple(tuple(block.kernel_size for block in stage) for stage in stages),
        expand_ratio=tuple(tuple(block.expand_ratio for block in stage) for stage in stages),
    )


def archs(number: int = 10) -> list[object]:
    rng = random.Random(0)
    return [mini.SMALLEST, mini.LARGEST, *(mini.sample(rng) for _ in range(number))]


def counted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that compute something."""
    return {name: tensor for name, tensor in state.items() if "num_batches" not in name}


@pytest.fixture(scope="module")
def twins() -> tuple[torch.nn.Module, ofa.Supernet]:
    """The small file's supernet, all of it random, and the library's with the same tensors."""
    generator = torch.Generator().manual_seed(0)
    small = mini.Supernet()
    for name, tensor in small.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.ndim == 1:  # norms, biases and means
            tensor.normal_(1, 0.3, generator=generator)
        else:  # filters as they are drawn; kernel transforms beside the identity
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    library = ofa.Supernet(table())
    ours, theirs = counted(small.state_dict()), counted(library.state_dict())
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]
    for tensor, same in zip(theirs.values(), ours.values(), strict=True):
        tensor.copy_(same)
    return small.eval(), library.eval()


def images(number: int = 8) -> Tensor:
    return torch.randn(number, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_subnets_equal_the_librarys_bit_for_bit(
    twins: tuple[torch.nn.Module, ofa.Supernet],
) -> None:
    small, library = twins
    seen = []
    for arch in archs():
        logits = small(images(), arch)
        assert torch.equal(logits, library(images(), to_library(arch)))
        assert torch.equal(logits, small.extract(arch)(images()))  # type: ignore[operator]
        assert not torch.equal(logits, logits[:1].expand_as(logits))  # it depends on the input
        seen.append(logits)
    assert not torch.equal(seen[0], seen[1])


@torch.no_grad()
def test_recalibrated_subnets_equal_the_librarys(
    twins: tuple[torch.nn.Module, ofa.Supernet],
) -> None:
    small, library = twins
    for arch in archs(4):
        ours = mini.recalibrate(small.extract(arch), images(64))  # type: ignore[operator]
        theirs = ofa.specialize(library, to_library(arch), calibration=[images(64)])
        # The library's kernel sums in another order: single precision, ten layers deep.
        pairs = zip(counted(ours.state_dict()), counted(theirs.state_dict()), strict=True)
        for ours_name, theirs_name in pairs:
            tensors = ours.state_dict()[ours_name], theirs.state_dict()[theirs_name]
            torch.testing.assert_close(*tensors, rtol=1e-4, atol=1e-5)
        # With the same statistics, the networks are the same again, to the bit.
        theirs.load_state_dict(
            dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
        )
        assert torch.equal(ours(images()), theirs(images()))
        assert not torch.equal(ours(images()), small(images(), arch))


def test_macs_names_and_size_are_the_librarys() -> None:
    spec = table()
    for arch in archs():
        same = to_library(arch)
        assert mini.count_macs(arch) == ofa.count_macs(spec.blueprint(same), resolution=8)
        assert str(same) == f"8px {arch}"
    assert spec.space.size == mini.NUM_SUBNETS


def test_a_sandwich_step_has_the_librarys_gradients(
    twins: tuple[torch.nn.Module, ofa.Supernet],
) -> None:
    small, library = (copy.deepcopy(net).train() for net in twins)
    labels = torch.arange(8)
    rng = random.Random(0)
    archs = [mini.LARGEST, mini.SMALLEST, mini.sample(rng), mini.sample(rng)]
    loss = mini.sandwich_step(small, images(), labels, random.Random(0))

    phase = Phase(
        name="all", epochs=1, learning_rate=0.1, draw="sandwich", subnets_per_step=4,
        teacher="in_place",
    )  # fmt: skip
    plan = Plan(name="mini", phases=(phase,), reference_batch=64, label_smoothing=0.0)
    numbers = accumulate_gradients(
        library,
        [(images(), labels)],
        [to_library(arch) for arch in archs],
        StepContext(plan=plan, phase=phase, ranks=Ranks()),
    )
    assert loss == pytest.approx(numbers.read().label_loss, rel=1e-5)
    for ours, theirs in zip(small.parameters(), library.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:  # sums of four passes, in another order within each
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_evolution_keeps_its_limit_and_finds_what_is_best() -> None:
    limit = 400_000

    def wider_is_better(arch: object) -> float:
        return sum(block.expand_ratio for stage in arch.stages for block in stage)  # type: ignore[attr-defined]

    best = mini.evolve(wider_is_better, limit, rounds=20, keep=10, seed=0)
    assert mini.count_macs(best) <= limit
    assert wider_is_better(best) >= max(
        wider_is_better(arch) for arch in archs(1000) if mini.count_macs(arch) <= limit
    )
    with pytest.raises(ValueError, match="max_macs 100 is below"):
        mini.evolve(wider_is_better, 100, seed=0)


def test_it_runs_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    mini.main(epochs=4, limits=(2.5e5,))
    lines = capsys.readouterr().out.splitlines()
    (test,) = re.findall(r"\d+ k +\d+ k +[\d.]+% +([\d.]+)%", lines[2])
    assert float(test) > 30, lines  # of ten classes
    assert len(SOURCE.splitlines()) <= 400
    assert "onceforall" not in re.findall(r"^(?:from|import) (\w+)", SOURCE, re.MULTILINE)
    assert f"{mini.NUM_SUBNETS:,}" in SOURCE.splitlines()[0]
