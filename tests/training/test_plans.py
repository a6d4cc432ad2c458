"""Plans, schedules and draws against published figures and by properties."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
import torch

from onceforall.arch import Arch
from onceforall.errors import ConfigError
from onceforall.measure.costs import count_macs
from onceforall.supernets.families import mobilenet_v3, proxylessnas, resnet50d, small_images
from onceforall.supernets.supernet import Supernet
from onceforall.training.attentive_sampling import choose_attentively
from onceforall.training.optimizer import make_optimizer
from onceforall.training.plan import Phase, Plan, sandwich_plan
from onceforall.training.ranks import Ranks
from onceforall.training.sampling import Moment, draw_archs, draw_candidates, draw_resolution
from onceforall.training.schedules import CosineSchedule
from onceforall.training.shrinking import progressive_plan, published_plan
from onceforall.training.step import StepContext
from tests.training.tiny import SPEC, tiny_batches, tiny_net

SIZES = tuple(range(128, 225, 4))
MBV3 = mobilenet_v3(resolutions=SIZES)


def at(
    step: int, *, epoch: int = 0, batches: int = 1000, published: bool = False, progress: float = 0
) -> Moment:
    return Moment(
        seed=0,
        epoch=epoch,
        batch=step,
        batches=batches,
        step=epoch * batches + step,
        progress=progress,
        published=published,
    )


def test_the_schedule_gives_the_published_rates() -> None:
    batches = 625
    schedule = CosineSchedule(peak=0.96, steps=125 * batches, warmup_steps=5 * batches, start=0.03)
    assert schedule(0) == pytest.approx(0.0302976)
    assert schedule(1) == pytest.approx(0.0305952)
    assert schedule(5 * batches - 1) == pytest.approx(0.96)
    assert schedule(65 * batches) == pytest.approx(0.48)
    assert schedule(125 * batches - 1) == pytest.approx(4.211e-10, rel=1e-3)


def test_a_schedule_without_warm_up_starts_at_its_peak_and_only_falls() -> None:
    schedule = CosineSchedule(peak=0.1, steps=50)
    rates = [schedule(step) for step in range(50)]
    assert rates[0] == 0.1
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] > 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            MBV3,
            [
                ("full", 185, 1, 0.08125, 5, 0, None),
                ("kernel_size 3", 125, 1, 0.03, 5, 0.03, None),
                ("depth 2", 25, 2, 0.0025, 0, 0.0025, None),
                ("depth 3", 125, 2, 0.0075, 5, 0.0075, None),
                ("expand_ratio 2", 25, 4, 0.0025, 0, 0.0025, 0),
                ("expand_ratio 3", 125, 4, 0.0075, 5, 0.0075, 1),
            ],
        ),
        (
            resnet50d(resolutions=SIZES),
            [
                ("full", 185, 1, 0.08125, 5, 0, None),
                ("depth 2", 25, 2, 0.0025, 0, 0.0025, None),
                ("depth 3", 125, 2, 0.0075, 5, 0.0075, None),
                ("expand_ratio 2", 25, 4, 0.0025, 0, 0.0025, 0),
                ("expand_ratio 3", 125, 4, 0.0075, 5, 0.0075, 1),
                ("width_mult 2", 25, 4, 0.0025, 0, 0.0025, None),
                ("width_mult 3", 125, 4, 0.0075, 5, 0.0075, None),
            ],
        ),
    ],
    ids=["mobilenet_v3", "resnet50d"],
)
def test_the_published_plan_has_the_published_figures(spec, expected) -> None:
    plan = published_plan(spec.space)
    found = [
        (
            phase.name,
            phase.epochs,
            phase.subnets_per_step,
            pytest.approx(phase.learning_rate),
            phase.warmup_epochs,
            phase.warmup_start,
            phase.sort_channels,
        )
        for phase in plan.phases
    ]
    assert found == expected
    assert plan.reference_batch == 64
    assert (plan.momentum, plan.weight_decay, plan.label_smoothing) == (0.9, 3e-5, 0.1)
    assert plan.distillation_weight == 1 and not plan.mean_over_subnets
    assert [phase.teacher for phase in plan.phases] == ["none"] + ["frozen"] * (len(expected) - 1)


def test_the_published_plan_opens_what_the_published_stages_open() -> None:
    def elastic(space) -> dict[str, set[object]]:
        found: dict[str, set[object]] = {}
        for gene in space.genes:
            found.setdefault(gene.axis, set()).update(gene.choices)
        found.pop("resolution", None)
        return found

    opened = [
        elastic(phase.opened.restrict(MBV3.space)) for phase in published_plan(MBV3.space).phases
    ]
    kernels = {"kernel_size": {3, 5, 7}}
    assert opened == [
        {},
        kernels,
        {**kernels, "depth": {3, 4}},
        {**kernels, "depth": {2, 3, 4}},
        {**kernels, "depth": {2, 3, 4}, "expand_ratio": {4, 6}},
        {**kernels, "depth": {2, 3, 4}, "expand_ratio": {3, 4, 6}},
    ]


@pytest.mark.parametrize("epochs", [6, 50, 1000])
def test_a_scaled_published_plan_keeps_its_shares(epochs: int) -> None:
    space = proxylessnas(resolutions=SIZES).space
    whole, scaled = published_plan(space), published_plan(space, epochs=epochs)
    assert whole.epochs == 610
    assert scaled.epochs == pytest.approx(epochs, abs=3)
    for long, short in zip(whole.phases, scaled.phases, strict=True):
        assert short.epochs == max(1, round(long.epochs * epochs / 610))
        assert short.learning_rate == long.learning_rate
        assert short.warmup_epochs / short.epochs == pytest.approx(long.warmup_epochs / long.epochs)


@pytest.mark.parametrize("make", [published_plan, None])
def test_the_last_phase_opens_the_whole_space(make) -> None:
    for spec in (MBV3, resnet50d(), SPEC):
        if make is None:
            plan = progressive_plan(spec.space, epochs=20, learning_rate=0.1, reference_batch=64)
        else:
            plan = make(spec.space)
        assert plan.phases[-1].opened.restrict(spec.space) == spec.space


def test_published_resolutions_and_subnets() -> None:
    sizes = [draw_resolution(MBV3.space, at(i, epoch=1, published=True)) for i in range(6)]
    assert sizes == [140, 204, 184, 156, 168, 184]
    phase = Phase(name="p", epochs=1, learning_rate=0.1, subnets_per_step=4)
    # The published seeds are digits in a row: step, subnet (three digits), three zeros.
    archs = draw_archs(phase, MBV3.space, at(123, published=True), resolution=160)
    assert archs[3].depth == (2, 4, 3, 3, 3)
    assert all(arch.resolution == 160 for arch in archs)
    second = draw_archs(phase, MBV3.space, at(0, published=True), resolution=160)[1]
    assert second.depth == (4, 2, 4, 4, 2)


def test_draws_depend_on_seed_and_step_alone() -> None:
    phase = sandwich_plan(epochs=2, learning_rate=0.1, reference_batch=16).phases[0]
    space = SPEC.space
    first = [draw_archs(phase, space, at(i), resolution=8) for i in range(50)]
    state = random.getstate()
    random.seed(1)
    again = [draw_archs(phase, space, at(i), resolution=8) for i in range(50)]
    random.setstate(state)
    assert first == again
    at_8 = space.restrict(resolution=(8,))
    assert all(archs[:2] == [at_8.largest, at_8.smallest] for archs in first)
    assert len({arch for archs in first for arch in archs[2:]}) > 80
    sizes = [draw_resolution(space, at(i)) for i in range(400)]
    assert 150 < sizes.count(8) < 250 and set(sizes) == {8, 12}


def test_a_sandwich_of_fewer_subnets_takes_turns() -> None:
    at_8 = SPEC.space.restrict(resolution=(8,))
    ends = [at_8.largest, at_8.smallest]

    def draw(count: int, step: int, progress: float = 0.9, ramp: float = 0.0) -> list[Arch]:
        phase = Phase(
            name="p", epochs=1, learning_rate=0.1, draw="sandwich", subnets_per_step=count,
            teacher="frozen", ramp=ramp,
        )  # fmt: skip
        return draw_archs(phase, SPEC.space, at(step, progress=progress), resolution=8)

    for step in range(0, 40, 4):
        assert [draw(1, step), draw(1, step + 2)] == [[ends[0]], [ends[1]]]
        assert draw(2, step) == ends and draw(2, step + 1)[0] == ends[0]
    between = [draw(1, step)[0] for step in range(1, 400, 2)]
    assert len(set(between)) > 80 and all(at_8.contains(arch) for arch in between)
    assert {draw(1, step, progress=0.0, ramp=0.5)[0] for step in range(8)} == {ends[0]}


def test_a_ramp_starts_at_the_largest_subnet_and_ends_at_the_whole_space() -> None:
    phase = Phase(name="p", epochs=1, learning_rate=0.1, subnets_per_step=3, ramp=0.5)
    at_8 = SPEC.space.restrict(resolution=(8,))
    archs = draw_archs(phase, SPEC.space, at(3, progress=0.0), resolution=8)
    assert archs[1:] == [at_8.largest] * 2
    for progress in (0.5, 0.9):
        free = draw_archs(phase, SPEC.space, at(3, progress=progress), resolution=8)
        assert free == draw_archs(
            Phase(name="p", epochs=1, learning_rate=0.1, subnets_per_step=3),
            SPEC.space,
            at(3),
            resolution=8,
        )


def test_published_decay_covers_what_the_published_groups_cover() -> None:
    net = Supernet(mobilenet_v3())
    groups = make_optimizer(
        net, momentum=0.9, weight_decay=3e-5, decay_transforms=True
    ).param_groups
    kept = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert sum(len(group["params"]) for group in groups) == 283
    assert (len(kept), sum(p.numel() for p in kept)) == (153, 51_480)
    ours = make_optimizer(net, momentum=0.9, weight_decay=3e-5).param_groups
    transforms = sum(p.numel() for n, p in net.named_parameters() if "7to5" in n or "5to3" in n)
    kept_too = sum(p.numel() for g in ours if g["weight_decay"] == 0 for p in g["params"])
    assert transforms > 0
    assert kept_too == 51_480 + transforms


def test_candidates_are_of_like_cost() -> None:
    def macs_of(arch):
        return count_macs(SPEC.blueprint(arch), resolution=arch.resolution)

    ours, others = [], []
    for i in range(30):
        arch = SPEC.space.restrict(resolution=(8,)).sample(random.Random(i))
        found = draw_candidates(arch, SPEC.space, macs_of, count=3, seed=str(i))
        assert found[0] == arch and len(set(found)) == 3
        assert all(a.resolution == arch.resolution for a in found)
        ours += [abs(macs_of(a) / macs_of(arch) - 1) for a in found[1:]]
        chance = [
            SPEC.space.restrict(resolution=(8,)).sample(random.Random(f"x{i}/{j}")) for j in (0, 1)
        ]
        others += [abs(macs_of(a) / macs_of(arch) - 1) for a in chance]
    assert sum(ours) < 0.4 * sum(others)


@pytest.mark.parametrize("attentive", ["best", "worst"])
def test_attentive_sampling_takes_the_extreme_loss_and_changes_nothing(attentive) -> None:
    net = tiny_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plan = sandwich_plan(epochs=1, learning_rate=0.1, reference_batch=16, attentive=attentive)
    phase = plan.phases[0]
    context = StepContext(plan=plan, phase=phase, ranks=Ranks())
    _, batch = next(iter(tiny_batches().iterate(0, resolution_of=lambda step: 8)))
    archs = draw_archs(phase, SPEC.space, at(0), resolution=8)
    chosen = choose_attentively(net, batch, archs, context, space=SPEC.space, seed="0")
    assert chosen[:2] == archs[:2] and len(chosen) == len(archs)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name

    def loss(arch) -> float:
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(net(batch[0], arch), batch[1]).item()

    def macs_of(arch) -> int:
        return count_macs(SPEC.blueprint(arch), resolution=arch.resolution)

    for i, (drawn, taken) in enumerate(zip(archs[2:], chosen[2:], strict=True)):
        group = draw_candidates(drawn, SPEC.space, macs_of, count=3, seed=f"0/candidates/{i}")
        extreme = (min if attentive == "best" else max)(group, key=loss)
        assert taken == extreme


def test_of_two_subnets_the_random_one_is_chosen_attentively() -> None:
    net = tiny_net().train()
    phase = Phase(
        name="p", epochs=1, learning_rate=0.1, draw="sandwich", subnets_per_step=2,
        attentive="best", attentive_candidates=8,
    )  # fmt: skip
    plan = Plan(name="one", phases=(phase,), reference_batch=16)
    context = StepContext(plan=plan, phase=phase, ranks=Ranks())
    _, batch = next(iter(tiny_batches().iterate(0, resolution_of=lambda step: 8)))
    others = set()
    for step in range(8):
        archs = draw_archs(phase, SPEC.space, at(step), resolution=8)
        chosen = choose_attentively(net, batch, archs, context, space=SPEC.space, seed=str(step))
        assert chosen[0] == archs[0] and len(chosen) == 2
        if step % 2 == 0:  # the smallest
            assert chosen == archs
        else:
            others.add(chosen[1] == archs[1])
    assert False in others, "candidates were looked at"


def test_a_rigid_space_has_all_epochs_at_once() -> None:
    rigid = small_images(
        num_classes=3, resolutions=(8,), widths=(8, 16), width_mults=(), depths=(1,),
        kernel_sizes=(3,), expand_ratios=(2,), stem_width=8, expand_width=16,
    )  # fmt: skip
    plan = progressive_plan(rigid.space, epochs=90, learning_rate=0.1, reference_batch=64)
    assert [phase.epochs for phase in plan.phases] == [90]


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no phase"):
        Plan(name="empty", phases=(), reference_batch=64)
    with pytest.raises(ConfigError, match="1 is below 2, the teacher and one that it teaches"):
        Phase(name="p", epochs=1, learning_rate=0.1, draw="sandwich", teacher="in_place")
    with pytest.raises(ConfigError, match="needs a sandwich"):
        Phase(name="p", epochs=1, learning_rate=0.1, subnets_per_step=2, teacher="in_place")
    with pytest.raises(ConfigError, match="attentive_candidates 1 is below 2"):
        Phase(name="p", epochs=1, learning_rate=0.1, attentive_candidates=1)
    with pytest.raises(ConfigError, match="warmup_epochs 2 is not in"):
        Phase(name="p", epochs=2, learning_rate=0.1, warmup_epochs=2)


def test_a_ramp_opens_blocks_with_every_option_alike() -> None:
    """A block that depth switched off in the draw has no choice to keep: it gets a fresh one."""
    spec = small_images(num_classes=3, depths=(2, 4), kernel_sizes=(3, 5, 7), resolutions=(8,))
    phase = Phase(name="p", epochs=1, learning_rate=0.1, subnets_per_step=2, ramp=1.0)
    kernels = Counter(
        arch.kernel_size[stage][block]
        for step in range(3000)
        for arch in draw_archs(phase, spec.space, at(step, progress=0.5), resolution=8)[1:]
        for stage in range(len(arch.depth))
        for block in (2, 3)  # those that depth switches off
        if arch.depth[stage] == 4
    )
    shares = {size: count / kernels.total() for size, count in kernels.items()}
    # Kept with probability 1/2, else the largest.
    assert shares[3] == pytest.approx(1 / 6, abs=0.01)
    assert shares[5] == pytest.approx(1 / 6, abs=0.01)
