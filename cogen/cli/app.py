"""`cogen`: all commands. Each imports what it needs only when it runs, so that --help answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cogen.cli.audit import audit
from cogen.cli.chat import chat
from cogen.cli.contributions import contributions
from cogen.cli.data import data
from cogen.cli.diagnose import diagnose
from cogen.cli.doctor import doctor
from cogen.cli.evaluate import evaluate
from cogen.cli.export import export
from cogen.cli.generate import generate
from cogen.cli.help import CONTEXT, Command, Group
from cogen.cli.invite import invite
from cogen.cli.join import join
from cogen.cli.leave import leave
from cogen.cli.merge import merge
from cogen.cli.nodes import nodes
from cogen.cli.plan import plan
from cogen.cli.probes import app as probes
from cogen.cli.receipts import receipts
from cogen.cli.report import report
from cogen.cli.revoke import revoke
from cogen.cli.run import run
from cogen.cli.search import search
from cogen.cli.serve import serve
from cogen.cli.simulate import simulate
from cogen.cli.train import train
from cogen.cli.watch import watch
from cogen.console import leave_ascii, open_streams, safe
from cogen.distributed import process_rank
from cogen.errors import CogenError, ConfigError

MAX_ERROR_CHARACTERS = 4000
COMMANDS = (
    *(doctor, data, plan, train, simulate, serve, invite, nodes, revoke, run, join, receipts, leave),
    *(merge, diagnose, search, contributions, evaluate, audit, report, watch, export, generate, chat),
)
app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,  # click does
    context_settings=CONTEXT,
)
for function in COMMANDS:
    app.command(function.__name__, cls=Command, context_settings=CONTEXT)(function)
app.add_typer(probes, name="probes")


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Federated continual pretraining of small language models by domain experts.

    Example: cogen simulate configs/quickstart.toml
    """
    if version:
        from importlib.metadata import version as find

        typer.echo(find("cogen-ai"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit
    if process_rank().count > 1 and context.invoked_subcommand != "train":
        fix = "Start this command without accelerate launch or torchrun; only cogen train works in several."
        got = f"{process_rank().count} processes"
        raise ConfigError(f"cannot run cogen {context.invoked_subcommand}", expected="one process", got=got, fix=fix)


def main() -> None:
    """Run a command: exit 0, 2 for the user's mistake in one line, 1 for a bug, 130 for Ctrl-C, 141 for `| head`."""
    leave_ascii()
    open_streams()
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except CogenError as error:
        if debug:
            raise
        if process_rank().local_index == 0:  # of several processes on a machine, one prints the line
            print(f"error: {safe(error, MAX_ERROR_CHARACTERS)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        text = safe(error, MAX_ERROR_CHARACTERS)
        print(f"bug: {type(error).__name__}: {text} (run again with --debug for the traceback)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
