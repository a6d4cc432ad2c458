"""What the phases of training leave behind, and how training enters at a later one.

After every phase the supernet lies in ``checkpoints/phases/<phase>.safetensors``, an ordinary
supernet file, beside the teacher of the phases to come and, where weights are averaged, the average
so far: training that starts at the next phase from there ends with the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from onceforall.errors import CheckpointError, ConfigError
from onceforall.files import read_json_file, write_bytes
from onceforall.job.context import Run
from onceforall.job.transfer import load_start
from onceforall.job.weights import new_supernet
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.nets import ElasticNet
from onceforall.supernets.single import SingleArchNet
from onceforall.supernets.weights import load_tensors, save_supernet
from onceforall.training.plan import Plan
from onceforall.training.settings import EpochEnd


def phase_file(folder: Path, name: str) -> Path:
    """Return where the supernet lies as a phase left it."""
    return folder / f"{name.replace(' ', '-').replace('/', '-')}.safetensors"


def write_phase(run: Run, plan: Plan, end: EpochEnd, facts: Mapping[str, Any]) -> None:
    """Keep the supernet as it is at the end of a phase."""
    if not isinstance(end.net, ElasticNet):
        return
    path = phase_file(run.folder.phases, end.phase.name)
    notes = {"phase": end.phase.name, "epochs_done": end.epochs_done}
    if any(phase.teacher == "frozen" for phase in plan.phases):
        notes["teacher"] = _teacher_name(run, plan)
    if end.average:
        average = path.with_name(f"{path.stem}-average.safetensors")
        tensors = {name: value.cpu().contiguous() for name, value in end.average.items()}
        write_bytes(average, safetensors.torch.save(tensors))
        notes["average"] = average.name
    save_supernet(end.net, path, facts={**facts, **notes})


def _teacher_name(run: Run, plan: Plan) -> str:
    """Return where the teacher lies: in the same folder, or wherever it was read from."""
    config = run.config.train
    if config.teacher:
        return str(Path(config.teacher).resolve())
    if config.start_at and config.start_at != plan.phases[0].name:
        named = _beside(Path(config.init)).get("teacher")
        return str((Path(config.init).parent / named if named else Path(config.init)).resolve())
    return phase_file(run.folder.phases, plan.phases[0].name).name


def read_entry(
    run: Run, plan: Plan, net: ElasticNet
) -> tuple[ElasticNet | SingleArchNet | None, dict[str, Tensor] | None]:
    """Return what the configuration says that training of ``net`` begins with besides weights.

    Raises:
        CheckpointError: If a file cannot be read, or does not fit.
        ConfigError: If there is no such file, or a teacher that no phase learns from.
    """
    config = run.config.train
    left = plan.phases[plan.index(config.start_at) :]
    is_taught = any(phase.teacher == "frozen" for phase in left)
    if config.teacher and not is_taught:
        raise ConfigError(
            f"train.teacher {config.teacher!r} has no effect: no phase has teacher frozen"
        )
    beside = _beside(Path(config.init)) if config.start_at else {}
    teacher: ElasticNet | SingleArchNet | None = None
    average = None
    if config.plan == "original" and not config.phases:
        if not config.init:
            raise ConfigError("train.plan original needs train.init: weights to learn from")
        teacher = original_of(net) if is_taught else None
    if is_taught and (config.teacher or beside.get("teacher")):
        path = Path(config.teacher or Path(config.init).parent / beside["teacher"])
        if not path.is_file():
            raise ConfigError(f"the teacher {path} is not there; name it with train.teacher")
        teacher = _teacher_of(run, path)
    if plan.ema_decay and "average" in beside:
        path = Path(config.init).parent / str(beside["average"])
        try:
            tensors = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"averaged weights {path} cannot be read: {error}") from error
        shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
        if shapes != {name: value.shape for name, value in tensors.items()}:
            raise CheckpointError(f"averaged weights {path} are of another network")
        average = {name: value.to(run.device) for name, value in tensors.items()}
    return teacher, average


def _teacher_of(run: Run, path: Path) -> ElasticNet:
    """Return the supernet of a file, frozen, on the run's device."""
    net = new_supernet(run)
    if isinstance(net, GraphSupernet):
        load_tensors(net, path)
    else:
        load_start(net, path, reinit_head=False)
    return net.requires_grad_(False)


def original_of(net: ElasticNet) -> SingleArchNet:
    """Return the largest subnet as it is now, frozen, with its own batch-norm statistics."""
    original = _Largest(copy.deepcopy(net).eval()).requires_grad_(False)
    return SingleArchNet(
        original,
        resolutions=net.space.resolutions,
        name="original",
        num_classes=net.spec.num_classes,
    ).eval()


class _Largest(nn.Module):
    """The largest subnet of a supernet, at the side of its images where that is an option."""

    def __init__(self, net: ElasticNet) -> None:
        super().__init__()
        self.net = net
        self.archs = {
            side: net.space.restrict(resolution=(side,)).largest for side in net.space.resolutions
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images ``(B, 3, R, R)``."""
        largest = self.archs[max(self.archs)]
        logits: Tensor = self.net(images, self.archs.get(images.shape[-1], largest))
        return logits


def _beside(weights: Path) -> dict[str, Any]:
    """Return what the JSON file beside weights says, if there is one."""
    path = weights.with_suffix(".json")
    content = read_json_file(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
