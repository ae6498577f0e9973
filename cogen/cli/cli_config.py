"""The settings of commands that take no config file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cogen.config import RunConfig, parse_config
from cogen.errors import ConfigError
from cogen.records import apply_overrides


def cli_config(
    domain: str, path: str, heldout_frac: float, overrides: Sequence[str], tables: Sequence[str]
) -> RunConfig:
    """Settings of a command without a config file, checked like a config file, with the same errors.

    Args:
        overrides: the values of `--set`. tables: the config tables, or single keys, that the command uses.
    Raises:
        ConfigError: an override of another table, or a value that the config refuses.
    """
    values: dict[str, Any] = {"domains": [{"name": domain, "data": path}], "evaluate": {"heldout_frac": heldout_frac}}
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key not in tables and key.partition(".")[0] not in tables:
            known = [f"{table}=VALUE" if "." in table else f"{table}.KEY=VALUE" for table in tables]
            fix = f"This command uses only {' and '.join(known)}."
            raise ConfigError("cannot use option", expected=known[0], got=repr(text), where="--set", fix=fix)
    apply_overrides(values, overrides)
    return parse_config(values, "the command line")
