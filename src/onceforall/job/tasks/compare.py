"""Several runs beside one another, in lines for people and as JSON."""

from __future__ import annotations

from typing import Any

from onceforall.job.closing_table import lines_of_columns, model_table
from onceforall.report.compared import SIDE_BY_SIDE, Compared

# Of a setting's value, so much is shown.
_MOST_CHARACTERS = 40


def comparison_lines(compared: Compared) -> list[str]:
    """Return what each run comes to, all models, and the settings that differ."""
    runs, names = compared.runs, compared.names
    lines = lines_of_columns(
        [
            ["run", *names],
            ["models", *(str(len(run.models)) for run in runs)],
            ["epochs trained", *compared.epochs],
            ["not beaten", *map(str, compared.on_front)],
            ["hypervolume", *(f"{volume:.4f}" for volume in compared.volumes)],
        ],
        left={"run"},
    )
    if compared.limit_ms is not None:
        lines.append(
            "hypervolume: mean test top-1 of the best model over all latency limits up to "
            f"{compared.limit_ms:.3g} ms"
        )
        lines.append(SIDE_BY_SIDE)
    lines += compared.warnings
    if compared.cards:
        lines += ["", *model_table(compared.cards)]
    if not compared.settings:
        return [*lines, "", "the settings are the same"]
    columns = [["setting that differs", *(key for key, _ in compared.settings)]]
    columns += [
        [name, *(_short(values[number]) for _, values in compared.settings)]
        for number, name in enumerate(names)
    ]
    return [*lines, "", *lines_of_columns(columns, left={"setting that differs"})]


def comparison_json(compared: Compared) -> dict[str, Any]:
    """Return a JSON object."""
    return {
        "runs": [
            {
                "name": name,
                "models": [model.card.name for model in run.models],
                "on_front": on_front,
                "hypervolume": round(volume, 6),
            }
            for name, run, on_front, volume in zip(
                compared.names, compared.runs, compared.on_front, compared.volumes, strict=True
            )
        ],
        "limit_ms": compared.limit_ms,
        "settings": {
            key: dict(zip(compared.names, values, strict=True)) for key, values in compared.settings
        },
        "warnings": list(compared.warnings),
    }


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
