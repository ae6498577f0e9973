"""Help pages in plain text, as Click formats them, with the help of arguments and without stray backslashes.

Typer 0.20 escapes `[required]` and `[default: ...]` for rich's markup wherever rich is installed, even where help
is plain text, which then shows `\\[required]`. Click 8.5 sets `help` of an argument itself, to nothing, so that the
text that Typer 0.20 was given is lost. Both are corrected here, where the lines of a page are gathered; with
versions that have neither fault this changes nothing.
"""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import suppress
from typing import Any, get_type_hints

import click
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from cogen.console import is_reader_gone
from cogen.errors import ConfigError

READER_GONE = 141  # 128 + SIGPIPE
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class BadValue(click.BadParameter):
    """A value that an option cannot take, shown in the form of `CogenError`."""

    def show(self, file: Any = None) -> None:
        got, _, wanted = self.message.rstrip(".").partition(" is not ")  # such as: 0 is not in the range x>=1.
        expected = wanted.replace("in the range", "a number") or "a value that it can take"
        where = self.param.opts[0] if self.param is not None else ""
        fix = "See cogen --help." if self.ctx is None else f"See {self.ctx.command_path} --help."
        print(
            f"error: {ConfigError('cannot use option', expected=expected, got=got, where=where, fix=fix)}",
            file=sys.stderr,
        )


class Command(TyperCommand):
    """A command whose help page is plain text; it ends quietly where its output is read no further."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does it; a value that an option cannot take is one line, as every other mistake is."""
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            raise BadValue(error.message, ctx, error.param) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and write out what it printed; exit 141, as a shell has it, where stdout's reader is gone."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            if not is_reader_gone():
                raise
            drop_output()
            raise click.exceptions.Exit(READER_GONE) from None
        return result

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help page is plain text, with the commands in the order in which they were added."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def drop_output() -> None:
    """Let what is still to be written to stdout vanish, so that the end of the process does not fail at it."""
    with open(os.devnull, "wb") as nowhere, suppress(OSError, ValueError):
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The sections `Arguments` and `Options` of a help page."""
    rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    meanings = argument_help(command)
    for parameter in command.get_params(ctx):
        is_argument = isinstance(parameter, click.Argument)
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        name, text = record[0], record[1].replace("\\[", "[")
        meaning = meanings.get(parameter.name or "", "")
        if is_argument and meaning not in text:
            text = f"{meaning}  {text}".rstrip()
        rows["Arguments" if is_argument else "Options"].append((name, text))
    for title, section in rows.items():
        if section:
            with formatter.section(title):
                formatter.write_dl(section)


def argument_help(command: click.Command) -> dict[str, str]:
    """The help of every argument, from the annotations of the command's function."""
    if command.callback is None:
        return {}
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    found = {}
    for name, hint in hints.items():
        for about in getattr(hint, "__metadata__", ()):
            if isinstance(about, ArgumentInfo):
                found[name] = about.help or ""
    return found
