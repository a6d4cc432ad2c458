"""``run.yaml``: what was asked for, and everything that decides a run."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from onceforall.artifacts.record import Count, Positive, Record, Seconds
from onceforall.errors import CheckpointError


class Request(Record):
    """What the user asked for; a run folder belongs to one request.

    What is None was not said, and is left to configuration file and recipe.

    Attributes:
        source: What the data set is opened with.
        root: Folder of downloaded data sets; empty for the user's cache.
        on_bad_image: What to do with an image that cannot be read.
        config_text: A YAML text of settings.
        flags: Settings as ``section.key=value``.
        budget_s: Seconds of the whole command.
        effort: What stands for a time without one.
        seed: Seed of everything.
        recipe: Where the settings come from.
    """

    source: str
    root: str = ""
    on_bad_image: str | None = None
    config_text: str | None = None
    flags: tuple[str, ...] = ()
    budget_s: Seconds | None = None
    effort: str | None = None
    seed: int | None = None
    recipe: str = "auto"

    def with_usual(self) -> Request:
        """Return the request with usual values for what was not said."""
        usual = {"on_bad_image": "refuse", "effort": "balanced", "seed": 0}
        unsaid = {key: value for key, value in usual.items() if getattr(self, key) is None}
        return self.model_copy(update=unsaid)

    @property
    def settings(self) -> tuple[str, ...]:
        """Return ``section.key=value`` of every option that is a setting, then the flags."""
        said: dict[str, object] = {
            "data.root": self.root or None,
            "data.on_bad_image": self.on_bad_image,
            "seed": self.seed,
        }
        given = [
            f"{key}={json.dumps(value, ensure_ascii=False)}"
            for key, value in said.items()
            if value is not None
        ]
        return (*given, *self.flags)


class DataFacts(Record):
    """The data set of a run.

    Attributes:
        name: Its name.
        classes: Classes.
        train: Training images, those held out included.
        test: Test images.
        fingerprint: Digest of names, sizes and labels, which tells whether the images changed.
    """

    name: str
    classes: Positive
    train: Count
    test: Count
    fingerprint: str


class Estimate(Record):
    """What a run is expected to take, in seconds.

    Attributes:
        train_s: Training.
        evaluate_s: Measuring subnets for the accuracy predictor.
        rest_s: Everything after that but fine-tuning.
        tune_s: Fine-tuning the winners.
        step_seconds: A training step of each phase.
        fills_budget: Whether training takes all the time that is left; not if epochs were given.
    """

    train_s: Seconds
    evaluate_s: Seconds
    rest_s: Seconds
    fills_budget: bool
    step_seconds: tuple[Seconds, ...]
    tune_s: Seconds = 0.0


class RunSettings(Record):
    """Contents of ``run.yaml``: what was asked for, and everything that decides the run.

    Attributes:
        request: What was asked for.
        config: The resolved configuration; :mod:`onceforall.job.config` reads it.
        data: The data set.
        seed: Seed of everything.
        space_size: Subnets of the search space.
        chosen: What was chosen for this machine, and why, in one line.
        budget_s: Seconds of the whole run; None for no bound.
        estimate: What the run was expected to take; None of older versions.
        epochs_trained: Epochs, of those asked for, that its supernet came to in its time, once it
            is trained; before more of them.
        versions: Of Python and packages.
        hardware: The machine that it was planned on.
    """

    request: Request
    config: dict[str, Any]
    data: DataFacts
    seed: int
    space_size: float
    chosen: str = ""
    budget_s: Seconds | None = None
    estimate: Estimate | None = None
    epochs_trained: float | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def damaged(cls, where: str, what: str) -> CheckpointError:
        """Return the error of a damaged ``run.yaml``, which nothing can write again."""
        return CheckpointError(
            f"{where} is damaged: {what}; restore it, or start anew with another --out"
        )
