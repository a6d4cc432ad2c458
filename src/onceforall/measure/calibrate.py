"""Batch-norm recalibration: statistics of one subnet, with the weights held fixed.

The running statistics of a supernet are a mixture over subnets; before a subnet is evaluated its
own must be computed. Both estimators run the network once over the calibration images, every
batch norm normalising by the statistics of its batch.

Shape suffixes: B batch, C channels.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.errors import ConfigError, MeasurementError
from onceforall.ops.norm import ElasticBatchNorm2d
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.static import StaticNet
from onceforall.supernets.supernet import Supernet

Estimator = Literal["published", "population"]
Norm = nn.BatchNorm1d | nn.BatchNorm2d | ElasticBatchNorm2d
Gather = Callable[[Tensor], Tensor]


def recalibrate_bn(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    arch: Arch | None = None,
    estimator: Estimator = "published",
    gather: Gather | None = None,
) -> None:
    """Recompute the running statistics of every batch norm that runs.

    With batches ``b`` of ``n_b`` images and ``p_b`` values per channel, batch means ``m_b`` and
    biased variances ``v_b``:

    * ``"published"``: ``mean = sum(n_b m_b) / sum(n_b)``, ``var = sum(n_b v_b) / sum(n_b)``;
    * ``"population"``: the same weighted by ``p_b``, plus the variance between batch means: the
      exact statistics of all values together.

    A batch of which a norm sees one value per channel, such as one image on a 1x1 map, has no
    variance: that norm leaves it out. Old statistics have no influence, whatever they are.

    Args:
        model: A plain network, or a supernet with ``arch``. Changed in place; training flags and
            everything else are afterwards as before. Channels and layers that do not run keep
            their statistics, and so does ``num_batches_tracked``.
        batches: Image batches ``(B, 3, H, W)``, float, normalised, on the model's device.
        arch: The subnet to recalibrate, if ``model`` is a supernet.
        estimator: See above.
        gather: Where several processes share the batches: given this one's ``(batches, numbers)``
            float64 rows, returns those of all in the order of the batches. Statistics are then
            what one process would find, to the bit.

    Raises:
        ConfigError: If there is no such estimator.
        MeasurementError: If there is no batch, none with two values per channel, or a supernet and
            no arch; not for a model without batch norm, which needs none. Whatever is raised, the
            model is as it was.

    Source: Yu and Huang, *Universally Slimmable Networks*, ICCV 2019, section 3; the population
    estimator is Wu and Johnson, *Rethinking "Batch" in BatchNorm*, 2021, section 3.
    """
    if estimator not in get_args(Estimator):
        known = ", ".join(get_args(Estimator))
        raise ConfigError(f"estimator {estimator!r} is not one of {known}")
    if isinstance(model, GraphSupernet | Supernet) and arch is None:
        raise MeasurementError("BN recalibration of a supernet needs an arch")
    if isinstance(model, GraphSupernet):
        assert arch is not None
        plain = model.extract(arch)
        recalibrate_bn(plain, batches, estimator=estimator, gather=gather)
        model.set_statistics(arch, plain)
        return
    norms = [m for m in model.modules() if isinstance(m, Norm)]
    if not norms:
        return
    forward = _forward_of(model, arch)
    collected: dict[Norm, _Sums] = {}
    mine: list[dict[Norm, _Seen]] = []

    def keep(norm: Norm, seen: _Seen) -> None:
        if gather is None:
            collected.setdefault(norm, _Sums()).add(seen)
        else:
            mine[-1][norm] = seen

    with _batch_statistics(model, norms, keep), torch.no_grad():
        for images in batches:
            mine.append({})
            forward(images)
        num_batches = len(mine)
        if gather is not None:
            rows = gather(_to_rows(norms, mine))
            num_batches = len(rows)
            for norm, seen in _from_rows(norms, rows):
                collected.setdefault(norm, _Sums()).add(seen)
        if num_batches == 0:
            raise MeasurementError("BN recalibration needs at least 1 batch of images, got 0")
        if any(sums.values == 0 for sums in collected.values()):
            raise MeasurementError(
                "BN recalibration needs a batch of at least 2 images: a norm saw one value per "
                "channel only, which has no variance"
            )
        results = [(norm, sums.result(estimator)) for norm, sums in collected.items()]
    with torch.no_grad():
        for norm, (mean_C, var_C) in results:
            _running(norm)[0][: len(mean_C)].copy_(mean_C)
            _running(norm)[1][: len(var_C)].copy_(var_C)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one batch norm saw of one batch: mean, biased variance, images, values a channel."""

    mean_C: Tensor
    var_C: Tensor
    images: int
    values: int


@dataclass(slots=True)
class _Sums:
    """Running sums of one batch norm over the batches seen so far."""

    images: float = 0.0
    values: float = 0.0
    image_mean: Tensor | float = 0.0  # sum of n_b * m_b
    image_var: Tensor | float = 0.0  # sum of n_b * v_b
    value_mean: Tensor | float = 0.0  # sum of p_b * m_b
    value_square: Tensor | float = 0.0  # sum of p_b * (v_b + m_b**2)

    def add(self, seen: _Seen) -> None:
        if seen.values == 1:  # without a variance
            return
        mean_C, var_C = seen.mean_C, seen.var_C
        self.images += seen.images
        self.values += seen.values
        self.image_mean = self.image_mean + seen.images * mean_C
        self.image_var = self.image_var + seen.images * var_C
        # In float64: what is taken off at the end may be nearly all of it.
        mean_C, var_C = mean_C.double(), var_C.double()
        self.value_mean = self.value_mean + seen.values * mean_C
        self.value_square = self.value_square + seen.values * (var_C + mean_C * mean_C)

    def result(self, estimator: Estimator) -> tuple[Tensor, Tensor]:
        if estimator == "published":
            mean, var = self.image_mean / self.images, self.image_var / self.images
        else:
            mean = self.value_mean / self.values
            var = torch.as_tensor(self.value_square / self.values - mean * mean).clamp(min=0)
        return torch.as_tensor(mean), torch.as_tensor(var)


def _to_rows(norms: Sequence[Norm], batches: Sequence[Mapping[Norm, _Seen]]) -> Tensor:
    """Return ``(batches, numbers)``: channels, images, values, means and variances of each norm.

    What a norm lacks is 0; in float64 every number survives.
    """
    widths = [len(_running(norm)[0]) for norm in norms]
    rows = torch.zeros(len(batches), sum(3 + 2 * width for width in widths), dtype=torch.float64)
    rows = rows.to(_running(norms[0])[0].device)
    for row, seen in zip(rows, batches, strict=True):
        start = 0
        for norm, width in zip(norms, widths, strict=True):
            if norm in seen:
                one = seen[norm]
                channels = len(one.mean_C)
                row[start : start + 3] = row.new_tensor([channels, one.images, one.values])
                row[start + 3 : start + 3 + channels] = one.mean_C
                row[start + 3 + width : start + 3 + width + channels] = one.var_C
            start += 3 + 2 * width
    return rows


def _from_rows(norms: Sequence[Norm], rows: Tensor) -> Iterator[tuple[Norm, _Seen]]:
    """Yield what `_to_rows` was made of, batch by batch."""
    for row in rows:
        start = 0
        for norm in norms:
            running = _running(norm)[0]
            channels, images, values = (int(x) for x in row[start : start + 3].tolist())
            means, variances = row[start + 3 : start + 3 + 2 * len(running)].to(running).chunk(2)
            if channels:
                yield norm, _Seen(means[:channels], variances[:channels], images, values)
            start += 3 + 2 * len(running)


@contextlib.contextmanager
def _batch_statistics(
    model: nn.Module, norms: list[Norm], keep: Callable[[Norm, _Seen], None]
) -> Iterator[None]:
    """Let every norm normalise by its batch and hand over what it saw; restore all on exit.

    With momentum 1 the running statistics after a batch *are* that batch's, computed by the same
    fused kernel that normalises; the kernel's unbiased variance is turned back into the biased.
    """
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    buffers = [[b.clone() for b in (*_running(norm), _tracked(norm))] for norm in norms]

    def collect(norm: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        x = inputs[0]
        channels, values = x.shape[1], _values(x)
        mean, var = _running(norm)
        biased = var[:channels] * ((values - 1) / values)
        keep(norm, _Seen(mean[:channels].clone(), biased, x.shape[0], values))  # type: ignore[arg-type]

    hooks = [norm.register_forward_hook(collect) for norm in norms]
    # In our networks nobody reads the input of a norm again, so it may hold the output: on a CPU
    # a fresh large tensor costs more than the arithmetic.
    in_place = isinstance(model, StaticNet | Supernet) and _is_on_cpu(model)
    normalise = _normalise_in_place if in_place else _normalise
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
            norm.forward = functools.partial(normalise, norm)  # type: ignore[method-assign]
            with torch.no_grad():  # momentum 1 forgets numbers, but 0 times infinity is none
                _running(norm)[0].zero_()
                _running(norm)[1].fill_(1)
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for norm, momentum, saved in zip(norms, momenta, buffers, strict=True):
                norm.momentum = momentum
                for buffer, value in zip((*_running(norm), _tracked(norm)), saved, strict=True):
                    buffer.copy_(value)


def _normalise(norm: Norm, x: Tensor) -> Tensor:
    """Normalise ``x`` by its batch; a single value per channel is its own mean."""
    if _values(x) == 1:
        return _shift_alone(norm, x)
    return type(norm).forward(norm, x)  # type: ignore[arg-type]


def _shift_alone(norm: Norm, x: Tensor) -> Tensor:
    """Return what is left of a single value per channel: the shift of its channel."""
    zeros = torch.zeros_like(x)
    bias: Any = norm.bias
    return zeros if bias is None else zeros + bias[: x.shape[1]].view(-1, *(1,) * (x.ndim - 2))


def _values(x: Tensor) -> int:
    """Return the values per channel of ``(B, C, ...)``."""
    return x.numel() // x.shape[1]


def _normalise_in_place(norm: Norm, x: Tensor) -> Tensor:
    """Normalise ``x`` by its batch, in place, as `torch.nn.functional.batch_norm` does."""
    channels, values = x.shape[1], _values(x)
    if values == 1:
        return _shift_alone(norm, x)
    mean_C, var_C = (buffer[:channels] for buffer in _running(norm))
    torch.batch_norm_update_stats(x, mean_C, var_C, 1.0)
    biased_C = var_C * ((values - 1) / values)
    scale_C = norm.weight[:channels] * (biased_C + norm.eps).rsqrt()
    shift_C = norm.bias[:channels] - mean_C * scale_C
    return torch.addcmul(shift_C[:, None, None], x, scale_C[:, None, None], out=x)


def _is_on_cpu(model: nn.Module) -> bool:
    return all(parameter.device.type == "cpu" for parameter in model.parameters())


def _forward_of(model: nn.Module, arch: Arch | None) -> Callable[[Tensor], Tensor]:
    if arch is None:
        return model
    if not isinstance(model, Supernet):
        raise MeasurementError(f"an arch was given, but {type(model).__name__} is not a supernet")
    supernet = model
    return lambda images: supernet(images, arch)


def _running(norm: nn.Module) -> tuple[Tensor, Tensor]:
    return norm.running_mean, norm.running_var  # type: ignore[return-value]


def _tracked(norm: nn.Module) -> Tensor:
    return norm.num_batches_tracked  # type: ignore[return-value]
