"""Options that several commands have, and how `NAME=PATH` is read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.console import safe
from cogen.errors import ConfigError

if TYPE_CHECKING:
    from cogen.adapter import Adapter
    from cogen.base import Base

DEFAULT_BASE = "smollm2-135m"
FEDERATION = Path("federation")

Adapters = Annotated[
    list[str], typer.Argument(metavar="ADAPTER...", help="[NAME=]FOLDER of each adapter, or one recipe.toml.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
BaseName = Annotated[str, typer.Option("--base", help="Base model: folder or id.")]
Federation = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
HeldoutFrac = Annotated[float, typer.Option(help="Share of documents held out.")]
MaxTokens = Annotated[int, typer.Option(help="Tokens scored of each corpus.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SequenceLength = Annotated[int, typer.Option(help="Window length in tokens.")]
Settings = Annotated[list[str], typer.Option("--set", help="TABLE.KEY=VALUE, such as train.rank=8.")]
ValidationData = Annotated[list[str], typer.Option("--data", help="[NAME=]PATH of a domain's corpus.")]
ValidationFrac = Annotated[float, typer.Option(help="Share of documents to score on.")]
Without = Annotated[list[str], typer.Option("--without", help="Leave this adapter out.")]


def named_paths(items: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=PATH` each; a bare path is named after its file.

    Raises:
        ConfigError: an empty part, or a name twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals:
            name, path = Path(item).stem, item
        if not name or not path or name in found:
            got = f"{name!r} twice" if name in found else repr(item)
            fix = "Give each path a name of its own."
            raise ConfigError("cannot use option", expected="NAME=PATH, each name once", got=got, where=option, fix=fix)
        found[name] = path
    return found


def say_doubts(base: Base, adapters: Mapping[str, Adapter]) -> None:
    """Name on stderr each adapter that may have been made for another base."""
    from cogen.base import doubt

    for name, adapter in adapters.items():
        if line := doubt(adapter, name, base.info.name, str(base.info.folder)):
            print(f"warning: {safe(line)}", file=sys.stderr)
