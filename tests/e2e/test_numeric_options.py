"""Every numeric option of every command, at values that it cannot take: one line that names it, exit 2, at once.

The options are those that Typer knows, so that a new one is tried too. Nothing here reaches a model: each command is
given a base that does not exist.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from typer.main import get_command

from cogen.adapter import Adapter, Factors
from cogen.cli.app import app
from tests.shell import Cogen, refused

SEEDS = Path(__file__).parents[2] / "seeds"
HUGE = 10**30
NUMERIC = (click.types.IntParamType, click.types.FloatParamType)
# Values that are right for an option, of those that are tried; by name, or by command and name.
RIGHT: dict[str, set[float]] = {
    "seed": {0},
    "scale": {0, -1},
    "heldout-frac": set(),
    "max-loss-frac": {0},
    "search heldout-frac": {0},
    "contributions heldout-frac": {0},
    "temperature": {0},
    "watch port": {0},
    "max-tokens": {HUGE},
    "max-heldout-tokens": {HUGE},
    "sequence-length": {HUGE},  # refused once the context of the base is known
    "task-limit": {HUGE},
    "rank": {HUGE},
    "num": {HUGE},
    "max-terms": {HUGE},
    "threads": {HUGE},
    "canaries": {0},
}
# Options that are settings of the config, whose key is named.
KEYS = {"tokens": "train.tokens_per_round", "seeds": "evaluate.num_seeds"}
ARGUMENTS: dict[str, list[str]] = {
    "data": ["{seeds}/grid.jsonl", "--base", "no/base"],
    "plan": ["quickstart", "--set", "base.name=no/base"],
    "train": ["--data", "{seeds}/grid.jsonl", "--domain", "d", "--out", "out", "--base", "no/base"],
    "simulate": ["quickstart", "--set", "base.name=no/base"],
    "invite": ["grid"],
    "join": ["no.invite"],
    "merge": ["{a}", "{b}", "--out", "out"],
    "search": ["{a}", "{b}", "--data", "{seeds}/grid.jsonl", "--base", "no/base", "--try", "dare"],
    "contributions": ["{a}", "{b}", "--data", "{seeds}/grid.jsonl", "--base", "no/base", "--method", "dare"],
    "evaluate": ["--data", "{seeds}/grid.jsonl", "--base", "no/base"],
    "audit": ["--adapter", "a={a}", "--data", "a={seeds}/grid.jsonl", "--base", "no/base"],
    "watch": ["no run"],
    "export": ["{a}", "--out", "out", "--data", "{seeds}/grid.jsonl", "--base", "no/base"],
    "generate": ["a prompt", "--base", "no/base"],
    "chat": ["--base", "no/base"],
    "probes make": ["{seeds}/grid.jsonl", "--general", "{seeds}/clinical.jsonl", "--out", "p", "--base", "no/base"],
}


def numeric_options(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Command, and option without its dashes."""
    if isinstance(command, click.Group):
        return [found for name, one in command.commands.items() for found in numeric_options(one, (*path, name))]
    return [
        (" ".join(path), parameter.opts[0].lstrip("-"))
        for parameter in command.params
        if isinstance(parameter.type, NUMERIC)
    ]


OPTIONS = numeric_options(get_command(app))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two adapters, for the commands that read them before they look at a rule."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in "ab":
        Adapter({"x": Factors(torch.ones(2, 4), torch.ones(3, 2), 1.0)}, "").save(folder / name)
    return {"a": str(folder / "a"), "b": str(folder / "b"), "seeds": str(SEEDS)}


def test_there_are_options_to_try() -> None:
    assert len(OPTIONS) >= 42 and {command for command, _ in OPTIONS} == set(ARGUMENTS)


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[f"{c} --{o}" for c, o in OPTIONS])
def test_values_that_an_option_cannot_take(cogen: Cogen, places: dict[str, str], command: str, option: str) -> None:
    """Red: a callback of `in_bounds` less."""
    values = [-1, 0, -HUGE, HUGE, math.nan, math.inf, -math.inf, *([-0.1, 1.5] if option.endswith("-frac") else [])]
    right = RIGHT.get(f"{command} {option}", RIGHT.get(option, set()))
    for value in values:
        if value in right or (option == "scale" and math.isfinite(value)):
            continue
        arguments = [text.format(**places) for text in ARGUMENTS[command]]
        result = cogen(*command.split(), *arguments, f"--{option}={value}")
        refused(result)
        line = result[2].replace("_", "-").replace(" ", "-")
        assert option in line or KEYS[option].replace("_", "-") in line, f"{value}: {result[2]}"
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("value", ["two", "", "1.5", "0x10", "1e3"])
def test_what_is_no_number_is_one_line(cogen: Cogen, value: str) -> None:
    refused(cogen("generate", "a prompt", "--max-tokens", value), "--max-tokens", repr(value))


def test_seeds_of_the_config_have_bounds_too(cogen: Cogen) -> None:
    for setting in ("train.sequence_length=0", "train.batch_size=-1", "evaluate.heldout_frac=nan", "train.rank=0"):
        refused(
            cogen("simulate", "quickstart", "--set", "base.name=no/base", "--set", setting), setting.partition("=")[0]
        )
