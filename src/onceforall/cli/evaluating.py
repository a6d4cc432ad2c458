"""The verb that measures the accuracy of any network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onceforall.cli.console import Screen, print_result
from onceforall.cli.options import (
    MAX_SEED,
    Data,
    Json,
    OnBadImage,
    Root,
    parse_numbers,
    parse_on_bad_image,
)
from onceforall.cli.processes import joined_processes

Net = Annotated[
    str,
    typer.Option(
        "--net",
        help="Published id or alias, net.config JSON, model folder, run, or supernet file",
        show_default=False,
    ),
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="Weights file", show_default=False)
]
ArchFile = Annotated[
    Path | None,
    typer.Option("--arch", help="JSON of the subnet, ours or published", show_default=False),
]
Resolution = Annotated[int | None, typer.Option("--resolution", min=8, help="Input side in pixels")]
SubnetSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=MAX_SEED,
        help="Of a supernet: seed of the subnet, where --arch names none, and of the "
        "calibration images; by default 0",
        show_default=False,
    ),
]
Calibration = Annotated[
    int | None,
    typer.Option(
        "--calibration",
        min=2,
        help="Of a supernet: images that recalibrate batch norm; by default 2000",
        show_default=False,
    ),
]
Mean = Annotated[str, typer.Option("--mean", help="Three numbers, e.g. 0.5,0.5,0.5")]
Std = Annotated[str, typer.Option("--std", help="Three numbers")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda or cuda:N; by default a GPU if there is one",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images that are evaluated at once")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes that read image files; by default up to 8 for a GPU, else 0",
        show_default=False,
    ),
]


def evaluate(
    data: Data,
    net: Net,
    weights: WeightsFile = None,
    arch: ArchFile = None,
    resolution: Resolution = None,
    seed: SubnetSeed = None,
    calibration: Calibration = None,
    mean: Mean = "",
    std: Std = "",
    device: Device = "",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    root: Root = "",
    on_bad_image: OnBadImage = "refuse",
    json: Json = False,
) -> None:
    """Measure the accuracy of any network: published, of a run, or shipped.

    Several processes share the images, with the same result: torchrun --nproc-per-node 4
    -m onceforall eval ...

    Example:  ofa eval imagenet/ --net ofa_mbv3_d234_e346_k357_w1.0 --arch arch.json
    """
    means, stds = parse_numbers("--mean", mean), parse_numbers("--std", std)
    bad_image = parse_on_bad_image(on_bad_image)
    from onceforall.job.tasks.evaluate_any import EvalRequest, evaluate_request

    request = EvalRequest(
        net=net,
        weights=weights,
        arch=arch,
        resolution=resolution,
        seed=seed,
        num_calibration=calibration,
        mean=means,
        std=stds,
        batch_size=batch_size,
        num_workers=workers,
    )
    with (
        joined_processes(device) as (ranks, where),
        Screen(quiet=json or not ranks.is_main) as screen,
    ):
        result = evaluate_request(
            request,
            data,
            root=Path(root) if root else None,
            on_bad_image=bad_image,
            device=where,
            ranks=ranks,
            progress=lambda done, total: screen(
                {"event": "progress", "what": "eval", "done": done, "total": total}
            ),
            report=lambda text: screen({"event": "warning", "text": text}),
        )
    if not ranks.is_main:
        return
    print_result(result, map(_line, [result]), as_json=json)


def _line(result: dict[str, Any]) -> str:
    return (
        f"top-1 {result['top1'] * 100:.2f} %, top-5 {result['top5'] * 100:.2f} % of "
        f"{result['images']} images at {result['resolution']} px; {result['macs'] / 1e6:.1f} M "
        f"MACs, {result['params'] / 1e6:.2f} M params; batch norm: {result['calibration']}"
    )
