"""`cogen export`: a base with an adapter in it, as a folder that other programs load."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.evaluate import Text, windows_of
from cogen.cli.options import (
    MAX_LOSS_FRAC,
    AsJson,
    Overwrite,
    SequenceLength,
    in_bounds,
    named_paths,
    require_new_folder,
    say_doubts,
)
from cogen.console import TOKENS, Bar, print_json, safe
from cogen.errors import ConfigError

if TYPE_CHECKING:
    from cogen.export.manifest import ExportManifest


class Target(StrEnum):
    """Whose form the result has."""

    hf = "hf"


class StoredAs(StrEnum):
    """The dtype of the stored weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def export(
    source: Annotated[Path, typer.Argument(help="Run or adapter folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    to: Annotated[Target, typer.Option(help="Form of the result.")] = Target.hf,
    model: Annotated[str | None, typer.Option(help="Of a run: combined or expert:DOMAIN.")] = None,
    dtype: Annotated[StoredAs, typer.Option(help="Of the stored weights.")] = StoredAs.bfloat16,
    data: Annotated[list[str], typer.Option(help="NAME=PATH of a corpus to measure the result on.")] = [],  # noqa: B006
    max_heldout_tokens: Annotated[
        int, typer.Option(help="Tokens scored of each corpus.", callback=in_bounds(1))
    ] = 2048,
    sequence_length: SequenceLength = 512,
    base: Annotated[str | None, typer.Option(help="Base model, where the folder does not name it.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write base and adapter as one model for other programs.

    The folder has weights, tokenizer, chat template, a model card and export.json. With --data, bits
    per byte are measured before and after on text that the adapter was not trained on.

    Example: cogen export runs/quickstart --out model --data grid=seeds/grid.jsonl
    """
    from cogen.base import load_base
    from cogen.evaluate.models import find_models
    from cogen.export.hf import export_hf
    from cogen.export.manifest import EXPORT_MANIFEST
    from cogen.report.model_card import MODEL_CARD
    from cogen.train.memory import tune_allocator

    if out is None:
        raise ConfigError("cannot export", expected="--out", got="nothing", fix="Name the folder to write.")
    require_new_folder(out, EXPORT_MANIFEST, "an exported model", overwrite)
    tune_allocator()
    model_set = find_models(source, {}, base)
    name = model or model_set.names[0]
    adapter = model_set.load(name)
    if adapter is None:
        raise ConfigError("cannot export", expected="a model with an adapter", got=name, fix="Name another --model.")
    text = Text(named_paths(data, "--data"), None, max_heldout_tokens, sequence_length, MAX_LOSS_FRAC)
    loaded = load_base(model_set.base, device="cpu", precision="float32")
    loaded.info.require(adapter, name)
    say_doubts(loaded, {name: adapter})
    folder = model_set.adapters[name]
    windows = windows_of(loaded, {name: adapter}, {name: str(folder)}, text) if text.paths else {}
    if not windows:
        print("nothing is measured: no --data", file=sys.stderr)
    card = folder / MODEL_CARD
    tokens = 3 * sum(len(w.tokens) for some in windows.values() for w in some)
    with Bar("scoring", TOKENS, tokens) as bar:
        made = export_hf(
            loaded,
            adapter,
            name,
            out,
            dtype.value,
            windows,
            card if card.is_file() else None,
            lambda what, num_tokens: bar.advance(num_tokens, what),
        )
    if as_json:
        print_json(made.model_dump())
    else:
        _print(made, out)


def _print(made: ExportManifest, out: Path) -> None:
    num_bytes = sum(path.stat().st_size for path in out.iterdir())
    print(
        safe(
            f"{out}: {made.base} with {made.adapter}, {made.num_parameters / 1e6:.1f} M parameters in {made.dtype}, {num_bytes / 1e6:,.0f} MB"
        )
    )
    print(f"rounded off: {made.rounding_frac:.1%} of the size of the update")
    for s in made.scores:
        kept = "" if s.kept_frac is None else f", {s.kept_frac:.1%} of the gain kept"
        scores = f"base {s.base:.4f}, with the adapter {s.adapter:.4f}, exported {s.exported:.4f} bits per byte"
        print(safe(f"{s.domain}: {scores}{kept}, same next token {s.same_top_frac:.1%}"))
