"""Options that several commands have, and how `NAME=PATH` is read."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.console import safe
from cogen.errors import ConfigError, RunError

if TYPE_CHECKING:
    from cogen.adapter import Adapter
    from cogen.base import Base
    from cogen.data.account import Account

LARGEST_SEED = 2**63 - 1
MOST_TRIALS = 100_000


def in_bounds(
    low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[typer.Context, typer.CallbackParam, float | None], float | None]:
    """A check of a number's option, `low` <= number <= `high`, made before the command starts any work.

    Args:
        above: `low` itself is out of bounds.

    Raises:
        ConfigError: out of bounds, or no number (nan).
    """

    def check(context: typer.Context, parameter: typer.CallbackParam, value: float | None) -> float | None:
        if value is None or context.resilient_parsing or (low <= value <= high and not (above and value == low)):
            return value
        limits = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        expected = f"{low:g} or more" if high == math.inf else f"a number {limits}"
        fix = f"See {context.command_path} --help."
        where = parameter.opts[0]
        raise ConfigError("cannot use option", expected=expected, got=f"{value:g}", where=where, fix=fix)

    return check


DEFAULT_BASE = "smollm2-135m"
MAX_LOSS_FRAC = 0.2  # data.max_loss_frac
ACCEPT_LOSS = "data.max_loss_frac=1"  # what --accept-loss sets
FEDERATION = Path("federation")

Adapters = Annotated[
    list[str], typer.Argument(metavar="ADAPTER...", help="[NAME=]FOLDER of each adapter, or one recipe.toml.")
]
AcceptLoss = Annotated[bool, typer.Option("--accept-loss", help="Go on however much text is lost in reading.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
BaseName = Annotated[str, typer.Option("--base", help="Base model: folder or id.")]
Federation = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
HeldoutFrac = Annotated[float, typer.Option(help="Share of documents held out.", callback=in_bounds(0, 1))]
MaxLossFrac = Annotated[float, typer.Option(help="Share of a corpus that may be lost.", callback=in_bounds(0, 1))]
MaxTokens = Annotated[int, typer.Option(help="Tokens scored of each corpus.", callback=in_bounds(1))]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SequenceLength = Annotated[int, typer.Option(help="Window length in tokens.", callback=in_bounds(1))]
Settings = Annotated[list[str], typer.Option("--set", help="TABLE.KEY=VALUE, such as train.rank=8.")]
ValidationData = Annotated[list[str], typer.Option("--data", help="[NAME=]PATH of a domain's corpus.")]
ValidationFrac = Annotated[
    float, typer.Option(help="Share of documents to score on.", callback=in_bounds(0, 1, above=True))
]
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


def require_new_folder(out: Path, marker: str, what: str, overwrite: bool) -> None:
    """Check that writing to `out` replaces nothing but what the user gave up.

    Args:
        marker: the file by which a folder of this kind is known.
        what: the kind, such as "an adapter"; it is replaced only with `overwrite`.
    Raises:
        RunError: a file, a folder with other files, or one of this kind without `overwrite`.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    is_known = (out / marker).is_file()
    if not (is_known and overwrite):
        got = what if is_known else "a folder with other files" if out.is_dir() else "a file"
        fix = "Replace it with --overwrite, or name another --out." if is_known else "Name another --out."
        raise RunError("cannot write", expected="a new folder", got=got, where=str(out), fix=fix)


def say_account(name: str, account: Account) -> None:
    """Say on stderr what became of a corpus."""
    print(safe(f"{name}: {account}"), file=sys.stderr)


def say_doubts(base: Base, adapters: Mapping[str, Adapter]) -> None:
    """Name on stderr each adapter that may have been made for another base."""
    from cogen.base import doubt

    for name, adapter in adapters.items():
        if line := doubt(adapter, name, base.info.name, str(base.info.folder)):
            print(f"warning: {safe(line)}", file=sys.stderr)
