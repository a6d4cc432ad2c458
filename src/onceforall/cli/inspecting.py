"""Verbs that look and change nothing."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.console import Screen, print_json, say
from onceforall.cli.options import (
    MAX_SEED,
    Data,
    Json,
    OnBadImage,
    Root,
    parse_numbers,
    parse_on_bad_image,
)


def data(
    data: Data, root: Root = "", on_bad_image: OnBadImage = "refuse", json: Json = False
) -> None:
    """Open a data set and say what is in it.

    Example:  ofa data images/
    """
    bad_image = parse_on_bad_image(on_bad_image)
    from onceforall.job.data import describe, open_data
    from onceforall.job.sections import DataConfig

    config = DataConfig.model_validate(
        {
            "source": data,
            "root": root,
            "on_bad_image": on_bad_image,
            "num_valid": 1,
            "num_calibration": 1,
        }
    )
    facts = describe(open_data(config), on_bad_image=bad_image)
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name:12} {value}")


def evaluate(
    data: Data,
    net: Annotated[
        str,
        typer.Option(
            "--net",
            help="Published id or alias, net.config JSON, model folder, run, or supernet file",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights file", show_default=False)
    ] = None,
    arch: Annotated[
        Path | None,
        typer.Option("--arch", help="JSON of the subnet, ours or published", show_default=False),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", min=8, help="Input side in pixels")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            help="Of a supernet: seed of the subnet, where --arch names none, and of the "
            "calibration images; by default 0",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        int | None,
        typer.Option(
            "--calibration",
            min=2,
            help="Of a supernet: images that recalibrate batch norm; by default 2000",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[str, typer.Option("--mean", help="Three numbers, e.g. 0.5,0.5,0.5")] = "",
    std: Annotated[str, typer.Option("--std", help="Three numbers")] = "",
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="cpu, cuda or cuda:N; by default a GPU if there is one",
            show_default=False,
        ),
    ] = "",
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images that are evaluated at once")
    ] = 100,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="Processes that read image files; by default up to 8 for a GPU, else 0",
            show_default=False,
        ),
    ] = None,
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
    from onceforall.job.evaluate_any import EvalRequest, evaluate_request, named_device
    from onceforall.job.machine import default_device
    from onceforall.training.ranks import (
        ranks_from_environment,
        start_process_group,
        stop_process_group,
    )

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
    ranks = ranks_from_environment(os.environ)
    where = named_device(device, ranks) if device else default_device(ranks)
    start_process_group(ranks, where)
    try:
        with Screen(quiet=json or not ranks.is_main) as screen:
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
    finally:
        stop_process_group(ranks)
    if not ranks.is_main:
        return
    if json:
        print_json(result)
        return
    say(
        f"top-1 {result['top1'] * 100:.2f} %, top-5 {result['top5'] * 100:.2f} % of "
        f"{result['images']} images at {result['resolution']} px; {result['macs'] / 1e6:.1f} M "
        f"MACs, {result['params'] / 1e6:.2f} M params; batch norm: {result['calibration']}"
    )


def zoo_list(json: Json = False) -> None:
    """List the published networks.

    Example:  ofa zoo list
    """
    from onceforall.zoo.table import zoo_lines, zoo_rows

    if json:
        print_json(zoo_rows())
        return
    for line in zoo_lines():
        say(line)


def zoo_show(
    net_id: Annotated[str, typer.Argument(metavar="ID", help="Published id or alias")],
    json: Json = False,
) -> None:
    """Show one published network.

    Example:  ofa zoo show ofa-note10-22
    """
    from onceforall.zoo.table import zoo_facts

    facts = zoo_facts(net_id)
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name:16} {value}")


def zoo_verify(
    net_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Published ids; all by default")
    ] = None,
    json: Json = False,
) -> int:
    """Recompute what is published and check what is in the cache; downloads nothing.

    Example:  ofa zoo verify
    """
    from onceforall.zoo import verify

    checks = verify(*(net_ids or ()))
    if json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            if check.status not in ("ok", "absent"):
                say(f"{check.status}: {check.id} {check.name} {check.expected} {check.found}")
        counts = Counter(check.status for check in checks)
        say(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return int(any(check.status == "differs" for check in checks))
