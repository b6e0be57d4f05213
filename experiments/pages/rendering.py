"""Pages from templates."""

import shlex
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parents[1] / "templates"


def render(template: str, **context: Any) -> str:
    """The HTML of a template of ``experiments/templates``; what it prints is escaped."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    return environment.get_template(template).render(**context)
