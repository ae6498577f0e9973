"""`cogen`: commands are looked up here and imported only when they run, so that --help is quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cogen.cli import (
    chat,
    data,
    doctor,
    evaluate,
    generate,
    invite,
    join,
    merge,
    nodes,
    probes,
    receipts,
    report,
    revoke,
    run,
    serve,
    simulate,
    train,
    watch,
)
from cogen.distributed import process_rank
from cogen.errors import CogenError, ConfigError

app = typer.Typer(
    help="Federated continual pretraining of small language models by domain experts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.command("data")(data.data)
app.command("train")(train.train)
app.command("simulate")(simulate.simulate)
app.command("serve")(serve.serve)
app.command("invite")(invite.invite)
app.command("nodes")(nodes.nodes)
app.command("revoke")(revoke.revoke)
app.command("run")(run.run)
app.command("join")(join.join)
app.command("receipts")(receipts.receipts)
app.command("merge")(merge.merge)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(probes.app, name="probes")
app.command("report")(report.report)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("watch")(watch.watch)


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
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
    """Run a command: exit 0, 2 for the user's mistake in one line, 1 for a bug, 130 for Ctrl-C."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except CogenError as error:
        if debug:
            raise
        if process_rank().local_index == 0:  # a mistake is one line on a machine, however many processes meet it
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print(f"bug: {type(error).__name__}: {error} (run again with --debug for the traceback)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
