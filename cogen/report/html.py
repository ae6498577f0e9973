"""The HTML templates of this package."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from cogen.report import units


def template(name: str) -> Template:
    """A template by its file name; texts put into it are escaped, and a missing value is an error."""
    return _environment().get_template(name)


def fragment(name: str, /, **values: object) -> Markup:
    """A part of a page: the template's HTML, empty where it has nothing to show."""
    return Markup(template(name).render(**values).strip())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cogen.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["units"] = units
    return environment
