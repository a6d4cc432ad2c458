"""Real ImageNet weights of a ProxylessNAS network, in the published formats, do what they did."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision import transforms

from onceforall.measure.accuracy import evaluate
from onceforall.zoo import load_config_net
from tests.shared_data import shared_data

NAME = "proxyless-w0.3-r176_imagenet"


def test_top1_on_1300_validation_images_is_the_known_one() -> None:
    weights = shared_data("weights", f"{NAME}.pth")
    folder = shared_data("imagenet_val1300")
    half = (0.5, 0.5, 0.5)
    loaded = load_config_net(weights.with_suffix(".json"), weights, mean=half, std=half)
    assert loaded.resolution == 176
    assert loaded.model.plan.norm_eps == 1e-3
    # The known figure was measured with the short side at 201, one less than the published rule.
    preprocess = transforms.Compose(
        [
            transforms.Resize(201),
            transforms.CenterCrop(loaded.resolution),
            transforms.ToTensor(),
            transforms.Normalize(loaded.preprocessing.mean, loaded.preprocessing.std),
        ]
    )
    lines = (folder / "classes.txt").read_text().splitlines()
    label = {line.split()[0]: index for index, line in enumerate(lines)}
    files = sorted((folder / "val").glob("*/*"))
    batches = (
        (
            torch.stack([preprocess(Image.open(file).convert("RGB")) for file in part]),
            torch.tensor([label[file.parent.name] for file in part]),
        )
        for part in (files[i : i + 20] for i in range(0, len(files), 20))
    )
    with torch.inference_mode():
        accuracy = evaluate(loaded.model, batches)
    assert accuracy.images == 1300
    assert abs(accuracy.top1 - 0.695) <= 0.002
    assert abs(accuracy.top5 - 0.902) <= 0.002
