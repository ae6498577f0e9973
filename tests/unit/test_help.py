"""Help pages as a terminal of 80 or 100 columns shows them: short, whole, and with an example that parses."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from typer.main import get_command

from cogen.cli.app import app
from cogen.cli.help import CONTEXT
from tests.unit.test_docs_commands import parse

WIDTHS = (80, 100)
SCREEN_LINES = 40


def pages(width: int) -> Iterator[tuple[str, click.Command, str]]:
    """Name, command and help page of every command."""

    def walk(command: click.Command, context: click.Context, name: str) -> Iterator[tuple[str, click.Command, str]]:
        yield name, command, command.get_help(context)
        if isinstance(command, click.Group):
            for word, inner in command.commands.items():
                below = click.Context(inner, info_name=word, parent=context, terminal_width=width, **CONTEXT)
                yield from walk(inner, below, f"{name} {word}")

    root = get_command(app)
    yield from walk(root, click.Context(root, info_name="cogen", terminal_width=width, **CONTEXT), "cogen")


PAGES = [(width, *page) for width in WIDTHS for page in pages(width)]
NAMES = [f"{name} {width}" for width, name, _, _ in PAGES]


@pytest.mark.parametrize(("width", "name", "command", "page"), PAGES, ids=NAMES)
def test_a_page_fits_a_screen_and_is_plain_text(width: int, name: str, command: click.Command, page: str) -> None:
    """Red: Typer's escape before `[default: ...]`."""
    lines = page.splitlines()
    assert "\\" not in page
    assert len(lines) <= SCREEN_LINES and max(map(len, lines)) <= width
    assert not any(re.search(r"\w-$", line) for line in lines), "a word broken at its hyphen"


@pytest.mark.parametrize(("width", "name", "command", "page"), PAGES, ids=NAMES)
def test_the_example_is_one_line_and_parses(width: int, name: str, command: click.Command, page: str) -> None:
    (example,) = re.findall(r"^  Example: (.*)$", page, re.M)
    words = shlex.split(example)
    assert words[: len(name.split())] == name.split()
    parse(words[1 : words.index(">") if ">" in words else None])


@pytest.mark.parametrize(("width", "name", "command", "page"), PAGES, ids=NAMES)
def test_everything_has_a_help_text(width: int, name: str, command: click.Command, page: str) -> None:
    """Red: Click 8.5 loses the help of an argument, as Typer 0.20 hands it on."""
    sections = re.split(r"^(?:Arguments|Options|Commands):\n", page, flags=re.M)[1:]
    rows = [line for text in sections for line in text.splitlines() if re.match(r"  \S", line)]
    assert rows and all(re.search(r"\S  +\S", line.strip()) or f"{line}\n    " in page for line in rows)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_command_has_one_line_that_is_not_cut_off(width: int) -> None:
    root, page = next((command, page) for name, command, page in pages(width) if name == "cogen")
    assert isinstance(root, click.Group)
    listed = dict(re.findall(r"^  (\S+) +(.*)$", page.split("Commands:\n")[1], re.M))
    assert set(listed) == set(root.commands) and len(listed) > 20
    for name, line in listed.items():
        assert line.endswith(".") and "..." not in line
        assert line == (root.commands[name].help or "").splitlines()[0].strip()


def test_help_imports_nothing_slow() -> None:
    """So it answers in under a second. Red: a command imports torch, pydantic or rich at its head."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); sys.argv = ['cogen', '--help']\n"
    code += "from cogen.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    page, _, modules = done.stdout.rstrip().rpartition("\n")
    assert "Usage: cogen" in page and {"sys", "typer", "cogen.cli.app"} <= set(modules.split())
    assert len(modules.split()) < 400
    assert not {"torch", "transformers", "pydantic", "rich", "numpy", "flwr"} & set(modules.split())


def test_a_misspelt_command_names_the_nearest_once() -> None:
    """Red: Click and Typer both suggested it."""
    done = subprocess.run([sys.executable, "-m", "cogen.cli.app", "merg"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("Did you mean 'merge'?") == 1
