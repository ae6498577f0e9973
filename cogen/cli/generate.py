"""`cogen generate`: text from a base, an expert or a combined model, for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import LARGEST_SEED, in_bounds, named_paths, say_doubts
from cogen.console import print_json, safe_reply, typed_text

if TYPE_CHECKING:
    from cogen.base import Base
    from cogen.evaluate.models import ModelSet

ModelFolders = Annotated[list[str], typer.Option("--adapter", help="NAME=FOLDER of one more model.")]
ModelBase = Annotated[str | None, typer.Option("--base", help="Base model, where the folders do not name it.")]
ReplyTokens = Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.", callback=in_bounds(0, 1e6))]
SamplingSeed = Annotated[
    int, typer.Option("--seed", help="Random seed of sampling.", callback=in_bounds(0, LARGEST_SEED))
]


def generate(
    prompts: Annotated[list[str], typer.Argument(help="Texts to continue; - reads lines from stdin.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Run or adapter folder; the newest run by default.")
    ] = None,
    models: Annotated[list[str], typer.Option("--model", help="base, combined, expert:DOMAIN or a name.")] = [],  # noqa: B006
    adapters: ModelFolders = [],  # noqa: B006
    base: ModelBase = None,
    max_tokens: ReplyTokens = 64,
    temperature: Temperature = 0.0,
    seed: SamplingSeed = 0,
    stop: Annotated[str | None, typer.Option(help="Text that ends a reply.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each reply.")] = False,
) -> None:
    """Continue texts with one or more models.

    Without --model, the first model of the run is taken.

    Example: cogen generate "A relay trips when" --model base --model combined
    """
    from cogen.base import load_base
    from cogen.evaluate.generate import generate as replies_to
    from cogen.evaluate.models import find_models

    texts = _texts(prompts)
    model_set = find_models(source, named_paths(adapters, "--adapter"), base)
    chosen = models or [model_set.names[0]]
    for name in chosen:
        model_set.load(name)  # fails before the base is loaded
    loaded = load_base(model_set.base, precision=model_set.precision)
    for name in chosen:
        with with_model(loaded, model_set, name):
            replies = replies_to(loaded, texts, max_tokens, temperature, seed, stop=stop)
        for prompt, reply in zip(texts, replies, strict=True):
            if as_json:
                values = {"model": name, "prompt": prompt, "text": reply.text}
                print_json({**values, "token_logprobs": list(reply.token_logprobs)})
            else:
                text = safe_reply(prompt + reply.text)
                print(f"{name}: {text}" if len(chosen) > 1 else text)


@contextmanager
def with_model(base: Base, model_set: ModelSet, name: str) -> Iterator[None]:
    """The base with the adapter of a model attached, while the block runs.

    Raises:
        FingerprintMismatch: the adapter was made for another base.
    """
    from cogen.train.lora import attached

    adapter = model_set.load(name)
    if adapter is None:
        yield
        return
    base.info.require(adapter, name)
    say_doubts(base, {name: adapter})
    with attached(base.model, adapter.factors):
        yield


def _texts(prompts: Sequence[str]) -> list[str]:
    from cogen.errors import ConfigError

    if list(prompts) != ["-"]:
        return [typed_text(prompt, "a prompt") for prompt in prompts]
    texts = [typed_text(line.rstrip("\n"), "stdin") for line in sys.stdin if line.strip()]
    if not texts:
        fix = "Pipe text into it."
        raise ConfigError("cannot generate text", expected="a prompt a line", got="nothing", where="stdin", fix=fix)
    return texts
