"""What can go wrong, in one tree.

    OnceForAllError
      ArchError            an arch, gene or choice outside its search space      (ValueError)
      BlueprintError       a static network that cannot exist                    (ValueError)
      ConfigError          a setting, file or argument the user can fix          (ValueError)
      DataError            images or labels that cannot be used                  (ValueError)
      CheckpointError      weights or training state that do not fit or are damaged
      InfeasibleError      a limit that no arch of the space can keep            (ValueError)
      TrainingError        training that cannot go on (repeated divergence)
      MeasurementError     a measurement that could not be made
      ZooError             a published artefact that is unknown or not at hand
      MissingExtraError    an optional dependency that is not installed          (ImportError)
      VerificationError    a file that does not do what its card says
      Interrupted          a signal asked to stop; the same command goes on from what is saved

Every message names the thing, its value and what is allowed, on one line. The command line prints
that line and exits with status 2.
"""

from __future__ import annotations


class OnceForAllError(Exception):
    """Root of every error that this library raises on purpose."""


class ArchError(OnceForAllError, ValueError):
    """An arch, gene or choice lies outside its search space."""


class BlueprintError(OnceForAllError, ValueError):
    """A static network description is inconsistent."""


class ConfigError(OnceForAllError, ValueError):
    """A setting, file or argument is wrong and the user can fix it."""


class DataError(OnceForAllError, ValueError):
    """Images or labels cannot be used."""


class CheckpointError(OnceForAllError):
    """Weights or training state do not fit the network, or are damaged."""


class InfeasibleError(OnceForAllError, ValueError):
    """No arch of the search space can keep a limit."""


class TrainingError(OnceForAllError):
    """Training cannot go on."""


class MeasurementError(OnceForAllError):
    """A measurement could not be made."""


class ZooError(OnceForAllError):
    """A published artefact is unknown or not at hand."""


class VerificationError(OnceForAllError):
    """A produced file does not do what its card says."""


class MissingExtraError(OnceForAllError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: Import name that is missing, e.g. ``"onnxruntime"``.
        extra: Extra of this distribution that brings it, e.g. ``"onnx"``.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run  pip install 'onceforall[{extra}]'")


class Interrupted(OnceForAllError):
    """A signal asked to stop; the state is saved and the same command goes on."""
