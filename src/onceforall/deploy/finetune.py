"""Fine-tuning an extracted subnet: the recipe behind the published "finetune" networks.

A few epochs at a small learning rate, with or without soft targets from the supernet's largest
subnet, on the training engine: checkpoints, exact resume and rollbacks come with it.
"""

from __future__ import annotations

from pathlib import Path

from onceforall.data.batches.protocols import TrainBatches
from onceforall.supernets.nets import ElasticNet, PlainNet
from onceforall.supernets.single import SingleArchNet
from onceforall.training.engine import train
from onceforall.training.plan import Phase, Plan
from onceforall.training.ranks import Ranks
from onceforall.training.settings import Callbacks, TrainOptions


def finetune_plan(
    *,
    epochs: int,
    learning_rate: float,
    reference_batch: int,
    distill: bool,
    weight_decay: float = 3e-5,
    label_smoothing: float = 0.1,
    distillation_weight: float = 1.0,
) -> Plan:
    """Return the plan: one phase, one network, a cosine from a small learning rate.

    Args:
        epochs: Passes over the training images (25 or 75 for the published networks).
        learning_rate: Peak, for ``reference_batch`` images; about a tenth of training's.
        reference_batch: Global batch that the learning rate is meant for.
        distill: Learn from a teacher's soft targets besides the labels.
        weight_decay: On convolution and linear weights.
        label_smoothing: In [0, 1).
        distillation_weight: Factor of the soft-target loss.
    """
    phase = Phase(
        name="finetune",
        epochs=epochs,
        draw="largest",
        teacher="frozen" if distill else "none",
        learning_rate=learning_rate,
        warmup_epochs=min(1.0, epochs / 10),
    )
    return Plan(
        name="finetune",
        phases=(phase,),
        reference_batch=reference_batch,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        distillation_weight=distillation_weight,
        max_grad_norm=1.0,
    )


def finetune(
    model: PlainNet,
    plan: Plan,
    data: TrainBatches,
    *,
    resolution: int,
    num_classes: int,
    folder: Path,
    options: TrainOptions,
    callbacks: Callbacks | None = None,
    ranks: Ranks | None = None,
    teacher: ElasticNet | None = None,
) -> None:
    """Fine-tune ``model`` in place; the same call goes on after an interruption.

    Batch-norm statistics move with training and should be recalibrated afterwards.

    Args:
        model: Plain network; left in eval mode.
        plan: See :func:`finetune_plan`.
        data: Training batches.
        resolution: Input side in pixels.
        num_classes: Outputs of the network.
        folder: Folder of checkpoints.
        options: How to run.
        callbacks: Whom to tell and ask.
        ranks: This process among all.
        teacher: ElasticNet whose largest subnet teaches, if the plan distils.

    Raises:
        Interrupted: If it was asked to stop; a checkpoint is there.
        TrainingError: If training diverged too often.
    """
    net = SingleArchNet(
        model, resolutions=(resolution,), name=f"finetune {folder.name}", num_classes=num_classes
    )
    train(
        net,
        plan,
        data,
        folder=folder,
        options=options,
        callbacks=callbacks,
        ranks=ranks,
        teacher=None if teacher is None else teacher.requires_grad_(False),
    )
    model.eval()
