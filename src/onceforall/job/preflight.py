"""What a run would stumble over after hours of work, refused before it starts."""

from __future__ import annotations

from collections.abc import Callable

from onceforall.data import DataBundle, ImageArrays
from onceforall.encoding import Encoding
from onceforall.errors import ArchError, BlueprintError, ConfigError
from onceforall.job.config import RunConfig
from onceforall.job.data import splits_of
from onceforall.job.sections import LatencyConfig
from onceforall.measure.cost_tables import EXACT_COSTS, compile_costs
from onceforall.measure.costs import count_params, peak_activation_bytes
from onceforall.measure.latency.model import LatencyModel, latency_costs
from onceforall.measure.latency.ssh import SshOrt
from onceforall.measure.latency.targets import make_target
from onceforall.measure.onnx.model import blueprint_to_onnx, import_extra
from onceforall.search import Problem
from onceforall.supernets.spec import GraphSpec, SupernetSpec

# No machine that runs this holds more.
_MOST_PARAMS = 2 * 10**9
_MOST_ACTIVATION_BYTES = 2**34


def check_data(config: RunConfig, bundle: DataBundle) -> None:
    """Refuse what the images cannot give.

    Raises:
        ConfigError: If there are fewer than are held out or calibrate batch norm, or they are in
            memory where files are needed, or the other way round.
        DataError: If there are no training images.
    """
    splits_of(config, bundle)
    policy, is_resident = config.data.policy, isinstance(bundle.train, ImageArrays)
    if policy != "none" and is_resident:
        raise ConfigError(f"data.policy {policy} needs photographs in files, not small images")
    if config.data.crop == "pad" and not is_resident:
        raise ConfigError("data.crop pad is for small images, not for photographs in files")


def check_buildable(config: RunConfig, make_spec: Callable[[], SupernetSpec]) -> None:
    """Prove that network, search space and training plan of a configuration can be made.

    Raises:
        ConfigError: Naming what cannot be, or is too large for any machine.
    """
    try:
        spec = make_spec()
        config.plan(spec)
        largest = spec.blueprint(spec.space.largest)
        spec.blueprint(spec.space.smallest)
        encoding = Encoding(spec.space)
        encoding.to_archs(encoding.smallest())
        compile_costs(spec)
    except (ArchError, BlueprintError) as error:
        raise ConfigError(f"supernet: {error}") from error
    side = spec.space.resolutions[-1]
    sizes = {
        "parameters": (count_params(largest), _MOST_PARAMS),
        "bytes of activations for one image": (
            peak_activation_bytes(largest, resolution=side),
            _MOST_ACTIVATION_BYTES,
        ),
    }
    for name, (size, most) in sizes.items():
        if size > most:
            raise ConfigError(
                f"supernet: its largest subnet has {size:,} {name} at {side} px, more than {most:,}"
            )
    micro, batch = config.train.micro_batches, config.train.batch_size
    if micro > batch:
        raise ConfigError(f"train.micro_batches {micro} is more than train.batch_size {batch}")


def check_limits_kept(
    config: RunConfig, spec: SupernetSpec, *, latency: LatencyModel | None = None
) -> None:
    """Raise InfeasibleError if no subnet keeps the limits on what is known of its costs.

    Args:
        config: The run's configuration.
        spec: Its network.
        latency: Model of the device, once it is measured; until then its limit is not looked at.
    """
    models = {} if latency is None else {"latency_ms": latency}
    limits = {
        name: bound
        for name, bound in config.search.limits.items()
        if name in EXACT_COSTS or name in models
    }
    if not limits:
        return
    costs = compile_costs(spec, **latency_costs(spec, models))
    known = {name: costs.cost(name) for name in costs.names}
    Problem(
        encoding=Encoding(spec.space), objectives=known, costs=known, limits=limits
    ).feasible_row()


def check_training(config: RunConfig, num_classes: int) -> None:
    """Refuse phases that make no plan, and a grid that is not of the space.

    Raises:
        ArchError: If an option of the grid is not one of the space.
        ConfigError: If there is no phase of the name to start at, the grid is too large, or a
            limit would be ignored.
    """
    spec = config.spec(num_classes)
    config.plan(spec)
    if config.grid.every or config.grid.ship:
        config.grid_archs(spec.space)
    if config.grid.ship and config.search.limits:
        raise ConfigError(
            f"limit {next(iter(config.search.limits))} has no effect: grid.ship ships the whole "
            "grid, and nothing is searched"
        )


def check_exportable(spec: SupernetSpec) -> None:
    """Refuse a traced network with an operation that has no form in ONNX.

    Raises:
        ConfigError: Naming the operation.
        MissingExtraError: If onnx is not installed.
    """
    if not isinstance(spec, GraphSpec):
        return
    arch = spec.space.largest  # every block runs
    try:
        blueprint_to_onnx(spec.blueprint(arch), resolution=arch.resolution)
    except BlueprintError as error:
        raise ConfigError(f"supernet: {error}") from error


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
