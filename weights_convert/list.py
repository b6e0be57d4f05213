"""List the checkpoints that can be converted, and where they are published.

python -m weights_convert.list --model=hyperiqa

Without ``--model``, one line per file. Nothing is downloaded.
"""

import dataclasses

from experiments import catalog, cli, text_table
from nriqa_jax.models.model import Model
from weights_convert.convert import in_unit_of
from weights_convert.published import PUBLISHED, File
from weights_convert.tables import LAYOUTS

COLUMNS = ("model", "layout", "file", "trained on", "sha256", "page")
_UNPUBLISHED = File("(no file is published)", "", "", "", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a listing."""

    model: str | None = cli.flag(None, "Model whose details to print; by default a table of all files.", LAYOUTS)


def rows() -> list[tuple[str, ...]]:
    """One row of cells per file, and one for a model without any."""
    return [
        (model, _layout(file), file.name, file.trained_on, file.sha256[:8], file.page)
        for model in LAYOUTS
        for file in PUBLISHED.get(model, (_UNPUBLISHED,))
    ]


def _layout(file: File) -> str:
    return "(a part)" if file.layout is None else file.layout


def details(model: Model) -> str:
    """All that is known of the checkpoints of one model."""
    card, layouts = model.card, LAYOUTS[model.name]
    ranges = {layout: in_unit_of(layout, model).score_range for layout in layouts}
    accepted = (f"{layout} (scores {low:g}..{high:g})" for layout, (low, high) in ranges.items())
    lines = [
        f"{model.name}: {card.citation}",
        f"layouts: {', '.join(accepted)}",
        f"licences: code: {card.code_licence}; weights: {card.weights_licence}",
    ]
    lines += [] if model.name in PUBLISHED else ["", _UNPUBLISHED.name]
    for file in PUBLISHED.get(model.name, ()):
        facts = {"layout": _layout(file), "trained on": file.trained_on, "page": file.page, "licence": file.licence}
        facts |= {"sha256": file.sha256 + ("..." if len(file.sha256) < 64 else "")} if file.sha256 else {}
        lines += ["", file.name, *(f"  {name}: {fact}" for name, fact in facts.items())]
    command = f"python -m weights_convert.convert --model={model.name} --src=FILE --dst={model.name}.safetensors"
    return "\n".join([*lines, "", command])


def main(config: Config) -> int:
    """Print the table, or the details of one model."""
    print(details(catalog.MODELS[config.model]()) if config.model else text_table.plain([COLUMNS, *rows()]))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
