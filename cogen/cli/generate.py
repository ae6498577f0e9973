"""`cogen generate`: text from a base, an expert or a combined model, for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogen.cli.options import LARGEST_SEED, in_bounds, named_paths, say_doubts
from cogen.console import print_json, safe, safe_reply, typed_text

if TYPE_CHECKING:
    from cogen.base import Base
    from cogen.evaluate.generate import Generated
    from cogen.evaluate.models import ModelSet
    from cogen.routing.gate import Choice

ModelFolders = Annotated[list[str], typer.Option("--adapter", help="NAME=FOLDER of one more model.")]
ModelBase = Annotated[str | None, typer.Option("--base", help="Base model, where the folders do not name it.")]
ReplyTokens = Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.", callback=in_bounds(0, 1e6))]
WithoutExpert = Annotated[list[str], typer.Option("--without", help="Expert that a routed model leaves aside.")]
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
    without: WithoutExpert = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each reply.")] = False,
) -> None:
    """Continue texts with one or more models.

    Without --model, the first model of the run is taken. Of a routed model, the expert that its gate
    chooses for a text answers it.

    Example: cogen generate "A relay trips when" --model base --model combined
    """
    from cogen.base import load_base
    from cogen.evaluate.models import find_models

    texts = _texts(prompts)
    model_set = find_models(source, named_paths(adapters, "--adapter"), base)
    chosen = models or [model_set.names[0]]
    for name in chosen:
        model_set.require(name, without)  # fails before the base is loaded
    loaded = load_base(model_set.base, precision=model_set.precision)
    settings = (max_tokens, temperature, seed)
    for name in chosen:
        replies, speakers = _replies(loaded, model_set, name, texts, settings, stop, without)
        for prompt, reply, speaker in zip(texts, replies, speakers, strict=True):
            if as_json:
                values: dict[str, Any] = {"model": name, "prompt": prompt, "text": reply.text}
                values |= {} if speaker is None else {"expert": speaker.expert, "chance": speaker.chance}
                print_json({**values, "token_logprobs": list(reply.token_logprobs)})
            else:
                text = safe_reply(prompt + reply.text)
                who = safe(name if speaker is None else f"{name}, {speaker}")
                print(f"{who}: {text}" if len(chosen) > 1 or speaker is not None else text)


def _replies(
    base: Base,
    model_set: ModelSet,
    name: str,
    texts: Sequence[str],
    settings: tuple[int, float, int],
    stop: str | None,
    without: Sequence[str],
) -> tuple[list[Generated], list[Choice | None]]:
    """The replies of a model in the order of the texts, and what the gate of a routed one chose for each."""
    from cogen.evaluate.generate import gate_ids
    from cogen.evaluate.generate import generate as replies_to
    from cogen.evaluate.matrix import ROUTED

    rows: list[str] = [name] * len(texts)
    choices: list[Choice | None] = [None] * len(texts)
    if model_set.routed is not None and name == ROUTED:
        for i, text in enumerate(texts):
            rows[i], choices[i] = model_set.choose(base, gate_ids(base, text), without)
    found: dict[int, Generated] = {}
    for row in dict.fromkeys(rows):
        numbers = [i for i, r in enumerate(rows) if r == row]
        with with_model(base, model_set, row):
            some = replies_to(base, [texts[i] for i in numbers], *settings, stop=stop, numbers=numbers)
        found |= dict(zip(numbers, some, strict=True))
    return [found[i] for i in range(len(texts))], choices


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
