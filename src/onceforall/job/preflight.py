"""What a run would stumble over after hours of work, refused before it starts."""

from __future__ import annotations

from onceforall.data import DataBundle
from onceforall.encoding import Encoding
from onceforall.job.config import RunConfig
from onceforall.job.data import splits_of
from onceforall.job.sections import LatencyConfig
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.latency.ssh import SshOrt
from onceforall.measure.latency.targets import make_target
from onceforall.measure.onnx_model import import_extra
from onceforall.search import Problem


def check_data(config: RunConfig, bundle: DataBundle) -> None:
    """Raise ConfigError if there are fewer images than are held out or calibrate batch norm."""
    splits_of(config, bundle)


def check_limits_kept(config: RunConfig, num_classes: int) -> None:
    """Raise InfeasibleError if no subnet keeps the limits on what needs no measurement."""
    spec = config.spec(num_classes)
    limits = config.search.limits
    exact = {name: bound for name, bound in limits.items() if name != "latency_ms"}
    if not exact:
        return
    costs = compile_costs(spec)
    known = {name: costs.cost(name) for name in costs.names}
    Problem(
        encoding=Encoding(spec.space), objectives=known, costs=known, limits=exact
    ).feasible_row()


def check_tools(latency: LatencyConfig) -> None:
    """Raise an error if the latency target, or what exports models, is not there.

    Another machine is not asked: it may be switched on when its turn comes.

    Raises:
        ConfigError: If there is no such target.
        MeasurementError: If its device is not there.
        MissingExtraError: If a package is not installed.
    """
    target = make_target(latency.target, threads=latency.threads)
    if not isinstance(target, SshOrt):
        _ = target.hardware  # which asks device and runtime
    for package in ("onnx", "onnxruntime"):
        import_extra(package, "onnx")
