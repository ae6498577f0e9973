"""The work of `cogen generate`, imported only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cogen.base import Base, load_base
from cogen.cli.show import named_paths, print_json
from cogen.errors import ConfigError
from cogen.evaluate.generate import generate
from cogen.evaluate.models import ModelSet, find_models
from cogen.train.lora import attached


def run_generate(
    prompts: list[str],
    source: Path | None,
    models: list[str],
    adapters: list[str],
    base_name: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    stop: str | None,
    *,
    as_json: bool,
) -> None:
    """Continue every prompt with every model; each model is attached once."""
    texts = _texts(prompts)
    model_set = find_models(source, named_paths(adapters, "--adapter"), base_name)
    chosen = models or [model_set.names[0]]
    for name in chosen:
        model_set.load(name)  # fails before the base is loaded
    base = load_base(model_set.base, precision=model_set.precision)
    for name in chosen:
        with with_model(base, model_set, name):
            replies = generate(base, texts, max_tokens, temperature, seed, stop=stop)
        for prompt, reply in zip(texts, replies, strict=True):
            if as_json:
                values = {"model": name, "prompt": prompt, "text": reply.text}
                print_json({**values, "token_logprobs": list(reply.token_logprobs)})
            else:
                print(f"{name}: {prompt}{reply.text}" if len(chosen) > 1 else prompt + reply.text)


@contextmanager
def with_model(base: Base, model_set: ModelSet, name: str) -> Iterator[None]:
    """The base with the adapter of a row attached, while the block runs.

    Raises:
        FingerprintMismatch: the adapter was made for another base.
    """
    adapter = model_set.load(name)
    if adapter is None:
        yield
        return
    base.info.require(adapter, name)
    with attached(base.model, adapter.factors):
        yield


def _texts(prompts: Sequence[str]) -> list[str]:
    if list(prompts) != ["-"]:
        return list(prompts)
    lines = [line.rstrip("\n") for line in sys.stdin]
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise ConfigError(
            "cannot generate text", expected="a prompt a line", got="nothing", where="stdin", fix="Pipe text into it."
        )
    return texts
