"""On a GPU the host queues a batch without waiting, as far as a machine without one can tell.

Tensors are fakes here: they have shapes and devices, and no values.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from onceforall.data.batches.resident import ResidentBatches, ResidentEvalBatches
from onceforall.data.bundle import ImageArrays
from onceforall.data.images import device_ops
from onceforall.data.images.augmentation import Augmentation

GPU = torch.device("cuda")
ARRAYS = ImageArrays(
    images=torch.zeros(40, 3, 12, 12, dtype=torch.uint8), labels=torch.arange(40) % 10
)
NORMAL = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


class Crossings(TorchDispatchMode):
    """Counts copies from the host to the GPU, and those that wait for the GPU."""

    def __init__(self):
        super().__init__()
        self.copies, self.waits = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            crosses = torch.device(kwargs.get("device") or "cpu").type == "cuda"
            self.copies += crosses
            self.waits += crosses and not kwargs.get("non_blocking", False)
        return func(*args, **kwargs)


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(device_ops, "pinned", lambda values: values)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.mark.parametrize(("budget", "copies"), [(10**9, 8), (0, 9)])
@pytest.mark.parametrize("color", ["none", "torch"])
def test_a_batch_is_queued_without_waiting(fakes, budget, copies, color):
    batches = ResidentBatches(
        ARRAYS,
        augmentation=Augmentation(color=color, cutout=0.2, padding_mode="reflect"),
        batch_size=8,
        seed=0,
        device=GPU,
        max_device_bytes=budget,
        **NORMAL,
    )
    assert batches._images.device.type == ("cuda" if budget else "cpu")
    with Crossings() as crossings:
        images, labels = batches.batch(0, 1, resolution=10)
    assert images.device.type == labels.device.type == "cuda"
    # Five numbers of the boxes, which images, and where the cutout is; the colours; the images.
    assert crossings.waits == 0 and crossings.copies <= copies


def test_evaluation_is_queued_without_waiting(fakes):
    batches = ResidentEvalBatches(ARRAYS, batch_size=8, device=GPU, max_device_bytes=0, **NORMAL)
    assert batches._images.device.type == "cpu"
    with Crossings() as crossings:
        shown = list(batches.batches(12))
    assert all(x.device.type == y.device.type == "cuda" for x, y in shown)
    assert crossings.waits == 0 and crossings.copies == len(shown) == 5
