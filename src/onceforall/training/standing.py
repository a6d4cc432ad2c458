"""Where training stands: everything that a checkpoint holds, and how it is left and entered."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from onceforall.data.batches.protocols import TrainBatches
from onceforall.errors import CheckpointError, ConfigError, TrainingError
from onceforall.supernets.nets import classifier_of
from onceforall.training.budget import Pacer
from onceforall.training.checkpoint import Loaded, State, load_newest, save_checkpoint
from onceforall.training.freezing import learn_only, parameters_of
from onceforall.training.optimizer import Optimizers, make_optimizer, parameters_copy
from onceforall.training.plan import Plan
from onceforall.training.ranks import Ranks, gather_numbers, wait_for_all
from onceforall.training.settings import Callbacks, Event, TrainOptions
from onceforall.training.step import Trainable
from onceforall.training.timer import Timer
from onceforall.training.watch import LossWatch


@dataclass(slots=True)
class Position:
    """Where training stands; all that a checkpoint holds besides tensors."""

    phase: int = 0
    epoch: int = 0  # within the phase
    step: int = 0  # within the epoch
    rollbacks: int = 0
    learning_rate_factor: float = 1.0
    seconds: float = 0.0
    # Progress within the phase is linear from here: (share of the phase, step within it).
    anchor_share: float = 0.0
    anchor_step: int = 0


@dataclass(slots=True)
class Standing:
    """One training under way."""

    net: Trainable
    asked: Plan  # before any phase was given another length
    plan: Plan
    data: TrainBatches
    folder: Path
    options: TrainOptions
    callbacks: Callbacks
    ranks: Ranks
    position: Position
    watch: LossWatch
    timer: Timer
    optimizer: Optimizers
    average: dict[str, Tensor]
    learning: list[nn.Parameter]  # what may learn at all; a phase may let less of it
    teacher: Trainable | None = None
    has_own_teacher: bool = False
    pacer: Pacer | None = None

    @property
    def device(self) -> torch.device:
        """Return where the network lives."""
        return next(self.net.parameters()).device

    @property
    def global_epoch(self) -> int:
        """Return the epochs done over all phases."""
        before = sum(phase.num_epochs for phase in self.plan.phases[: self.position.phase])
        return before + self.position.epoch

    @property
    def phase_step(self) -> int:
        """Return the steps done of the current phase."""
        return self.position.epoch * self.data.steps_per_epoch + self.position.step

    def share(self, phase_step: int) -> float:
        """Return how much of the current phase is done at a step of it, in [0, 1].

        It grows evenly, and goes on from where it is when the phase is given another length.
        """
        position = self.position
        steps = self.plan.phases[position.phase].num_steps(self.data.steps_per_epoch)
        rest = (phase_step - position.anchor_step) / (steps - position.anchor_step)
        return position.anchor_share + (1 - position.anchor_share) * rest

    def change_lengths(self, epochs: Sequence[float]) -> None:
        """Give the current phase and all later ones new lengths, in epochs."""
        position = self.position
        share, step = self.share(self.phase_step), self.phase_step
        before = [phase.epochs for phase in self.plan.phases[: position.phase]]
        # From the plan as asked for, so that a restart comes to the same numbers.
        self.plan = self.asked.with_epochs([*before, *epochs])
        position.anchor_share, position.anchor_step = share, step

    @property
    def batch_ratio(self) -> float:
        """Return the global batch over the one that learning rates are meant for."""
        return self.data.batch_size * self.ranks.world_size / self.plan.reference_batch

    @property
    def global_step(self) -> int:
        """Return the steps done over all phases."""
        return self.global_epoch * self.data.steps_per_epoch + self.position.step


def let_learn(run: Standing) -> None:
    """Let what the current phase trains have gradients, and nothing else."""
    if run.position.phase == len(run.plan.phases):
        return
    part = run.plan.phases[run.position.phase].trainable
    chosen = {id(p) for p in parameters_of(run.net, part, classifier=classifier_of(run.net))}
    learn_only(run.net.parameters(), [p for p in run.learning if id(p) in chosen])


def new_optimizer(net: Trainable, plan: Plan, batch_ratio: float = 1.0) -> Optimizers:
    """Return a fresh optimizer as the plan wants it, for a batch of another size.

    Steps of equal size grow with the square root of the batch, those of gradient descent with the
    batch. Source: Malladi et al., *On the SDEs and scaling rules for adaptive gradient algorithms*,
    NeurIPS 2022 (of Adam; taken over for Muon, not tried).
    """
    return make_optimizer(
        net,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        decay_transforms=plan.decay_transforms,
        head=classifier_of(net),
        head_factor=plan.head_factor,
        muon_factor=plan.muon_factor / math.sqrt(batch_ratio),
    )


def start_phase(run: Standing) -> None:
    """Sort channels if the phase says so, freeze a teacher, start with a fresh optimizer."""
    phase = run.plan.phases[run.position.phase]
    left = run.plan.phases[run.position.phase :]
    if run.position.phase == 0 and phase.teacher == "frozen" and run.teacher is None:
        raise ConfigError(f"phase {phase.name} learns from a teacher, but there is none")
    # After the first phase or, where training enters later, the network that it starts from.
    is_wanted = any(each.teacher == "frozen" for each in left)
    if run.position.phase > 0 and is_wanted and run.teacher is None:
        run.teacher = copy.deepcopy(run.net).requires_grad_(False)
        run.teacher.zero_grad(set_to_none=True)
    if phase.sort_channels is not None:
        run.net.sort_channels(num_opened=phase.sort_channels)
        if run.average:
            run.average = parameters_copy(run.net)
    let_learn(run)
    run.optimizer = new_optimizer(run.net, run.plan, run.batch_ratio)
    # A doubt goes on into the phase; what is learned of its own losses does not.
    before, run.watch = run.watch, LossWatch(num_classes=run.net.spec.num_classes)
    if before.is_doubtful:
        run.watch.best, run.watch.recent = before.best, before.recent


def save(run: Standing) -> None:
    """Write a checkpoint on rank 0, for which all ranks wait."""
    if run.ranks.is_main:
        position = run.position
        state: State = {
            "plan": _plan_text(run.asked),
            "epochs": [phase.epochs for phase in run.plan.phases],
            "spec": repr(run.net.spec),
            "world_size": run.ranks.world_size,
            "net": run.net.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "average": run.average,
            "teacher": _kept_teacher(run),
            "watch": list(run.watch.state()),
            "position": [getattr(position, name) for name in Position.__slots__],
        }
        path = save_checkpoint(run.folder, state, step=run.global_step)
        seconds = round(position.seconds, 3)
        told = {"step": run.global_step, "file": path.name, "seconds": seconds}
        tell(run, {"event": "checkpoint", **told})
    wait_for_all(run.ranks)


def save_if_sound(run: Standing) -> bool:
    """Write a checkpoint, unless a rollback would rather have the one before; return whether."""
    is_over = run.position.phase == len(run.plan.phases)  # and nothing is rolled back any more
    if (run.watch.is_doubtful and not is_over) or not is_finite(run.net):
        return False
    save(run)
    return True


@torch.no_grad()
def is_finite(net: Trainable) -> bool:
    """Return whether all parameters are numbers."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())


def _kept_teacher(run: Standing) -> dict[str, Tensor]:
    if run.teacher is None or run.has_own_teacher:
        return {}
    return run.teacher.state_dict()


def restore(run: Standing) -> bool:
    """Load the newest good checkpoint; return whether there was one.

    Raises:
        CheckpointError: If it belongs to another plan, network or number of ranks, or if ranks
            found different ones: then on every rank, before anything is changed.
    """
    loaded, problem = None, None
    try:
        loaded = _read(run)
    except (CheckpointError, OSError) as error:
        problem = error
    found = gather_numbers(_restart(loaded, problem), run.ranks, run.device)
    if problem is not None:
        raise problem
    if len(set(found)) > 1:
        places = "; ".join(f"rank {rank}: {_place(*where)}" for rank, where in enumerate(found))
        raise CheckpointError(
            f"ranks found different checkpoints in {run.folder} ({places}); "
            "all of them need the same folder, on a disk that they share"
        )
    if loaded is None:
        return False
    state = loaded.state
    run.position = Position(**dict(zip(Position.__slots__, state["position"], strict=True)))
    run.plan = run.asked.with_epochs(state["epochs"])
    run.net.load_state_dict(state["net"])
    run.average = dict(state["average"])
    if state["teacher"]:
        run.teacher = copy.deepcopy(run.net).requires_grad_(False)
        run.teacher.load_state_dict(state["teacher"])
    elif not run.has_own_teacher:
        run.teacher = None  # a rollback over the end of a phase: it is frozen anew there
    let_learn(run)
    run.optimizer = new_optimizer(run.net, run.plan, run.batch_ratio)
    run.optimizer.load_state_dict(state["optimizer"])
    run.watch = LossWatch(run.net.spec.num_classes, *state["watch"])
    return True


def _plan_text(plan: Plan) -> str:
    """Return a plan as checkpoints name it; what came later is named where it is used."""
    return repr(plan).replace("muon_factor=0.0, ", "")


def _read(run: Standing) -> Loaded | None:
    """Return the newest good checkpoint, if it is of this training."""
    loaded = load_newest(
        run.folder,
        device=run.device,
        on_damaged=lambda path: tell(run, {"event": "damaged_checkpoint", "file": path.name}),
    )
    if loaded is None:
        return None
    for name, key, value in (
        ("plan", "plan", _plan_text(run.asked)), ("network", "spec", repr(run.net.spec)),
    ):  # fmt: skip
        if loaded.state[key] != value:
            raise CheckpointError(
                f"the checkpoint in {run.folder} is of another {name}; "
                "use another output folder or the settings it was started with"
            )
    ranks = loaded.state.get("world_size", 1)
    if ranks != run.ranks.world_size:
        raise CheckpointError(
            f"the checkpoint in {run.folder} was written by {ranks} ranks, not "
            f"{run.ranks.world_size}: an epoch has other steps; use as many ranks or another "
            "output folder"
        )
    return loaded


def _restart(loaded: Loaded | None, problem: Exception | None) -> list[int]:
    """Return where this rank would start again: phase, epoch, step, digest; below 0 for nowhere."""
    if loaded is None:
        return [-1 if problem is None else -2, 0, 0, 0]
    return [*loaded.state["position"][:3], int(loaded.digest[:12], 16)]  # 48 bits fit an int64


def _place(phase: int, epoch: int, step: int, digest: int) -> str:
    if phase < 0:
        return "none" if phase == -1 else "one that it cannot use"
    return f"phase {phase}, epoch {epoch}, step {step}, {digest:012x}"


def roll_back(run: Standing, problem: str) -> None:
    """Return to the newest good checkpoint with half the learning rate."""
    rollbacks = run.position.rollbacks + 1
    factor = run.position.learning_rate_factor * 0.5
    muon = ", and Muon's (--set train.muon_rate=...)," if run.plan.muon_factor else ""
    if rollbacks > run.options.max_rollbacks or not restore(run):
        raise TrainingError(
            f"training diverged {rollbacks} times ({problem}); "
            f"lower the learning rate (--set train.learning_rate=...){muon} and start again"
        )
    wait_for_all(run.ranks)
    run.position.rollbacks, run.position.learning_rate_factor = rollbacks, factor
    # What was learned by then is known: weights that had collapsed already are noticed again.
    run.watch = LossWatch(num_classes=run.net.spec.num_classes, best=run.watch.best)
    tell(
        run,
        {
            "event": "rollback",
            "reason": problem,
            "step": run.global_step,
            "learning_rate_factor": factor,
        },
    )
    save(run)


def tell(run: Standing, event: Event) -> None:
    """Pass an event to the caller, on rank 0."""
    if run.ranks.is_main:
        run.callbacks.on_event(event)
