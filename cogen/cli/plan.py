"""`cogen plan`: what each schedule takes and can be expected to give, before a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import typer

from cogen.cli.options import AsJson, in_bounds
from cogen.console import print_json

DEFAULT_RATE, DEFAULT_LINE = 150.0, 20.0


def plan(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped config.")],
    rate: Annotated[
        list[str], typer.Option(help="[DOMAIN=]TOKENS a second in training, as cogen doctor measures them.")
    ] = [f"{DEFAULT_RATE:g}"],  # noqa: B006
    line: Annotated[list[str], typer.Option(help="[DOMAIN=]MBIT a second of a domain's line.")] = [f"{DEFAULT_LINE:g}"],  # noqa: B006
    hours: Annotated[
        float | None,
        typer.Option(help="Within which the run should end.", callback=in_bounds(0.0, 1e6, above=True)),
    ] = None,
    settings: Annotated[list[str], typer.Option("--set", help="TABLE.KEY=VALUE of the config.")] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Compare schedules: hours, bytes and what to expect.

    Nothing is trained and nobody is asked.

    Example: cogen plan configs/textbooks.toml --rate 160 --rate grid=80 --line 50
    """
    from cogen.analysis.plan import DomainRates, adapter_bytes, format_plan, make_plan
    from cogen.base import describe_base
    from cogen.config import load_config
    from cogen.shipped_files import shipped_config

    found = load_config(shipped_config(config), settings)
    names = [d.name for d in found.domains]
    rates, lines = _by_domain(rate, names, "--rate", DEFAULT_RATE), _by_domain(line, names, "--line", DEFAULT_LINE)
    info = describe_base(found.base.name)
    rounds = found.federation.num_rounds
    domains = [DomainRates(d.name, rounds * found.tokens_of(d), rates[d.name], lines[d.name]) for d in found.domains]
    made = make_plan(found, domains, {d.name: adapter_bytes(info, found, d) for d in found.domains}, hours)
    if as_json:
        print_json(made.as_json())
    else:
        print(format_plan(made))


def _by_domain(texts: Sequence[str], names: Sequence[str], option: str, default: float) -> dict[str, float]:
    """Each domain's number; one without a domain is for all that are not named.

    Raises:
        ConfigError: no positive number, or an unknown domain.
    """
    from cogen.errors import ConfigError

    found = dict.fromkeys(names, default)
    for text in sorted(texts, key=lambda text: "=" in text):
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (value > 0 and math.isfinite(value)) or (name and name not in found):
            wanted = f"[DOMAIN=]NUMBER above 0, with a domain of {', '.join(names)}"
            raise ConfigError("cannot plan", expected=wanted, got=repr(text), where=option, fix=f"Change {option}.")
        found.update({name: value} if name else dict.fromkeys(names, value))
    return found
