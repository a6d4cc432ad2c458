"""Verbs that look and change nothing."""

from __future__ import annotations

from onceforall.cli.console import print_json
from onceforall.cli.options import Data, Json, OnBadImage, Root


def data(
    data: Data, root: Root = "", on_bad_image: OnBadImage = "refuse", json: Json = False
) -> None:
    """Open a data set and say what is in it.

    Example:  ofa data images/
    """
    from onceforall.recipes import DataConfig
    from onceforall.session import describe, open_data

    config = DataConfig.model_validate(
        {
            "source": data,
            "root": root,
            "on_bad_image": on_bad_image,
            "num_valid": 1,
            "num_calibration": 1,
        }
    )
    facts = describe(open_data(config))
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:12} {value}")
