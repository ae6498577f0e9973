"""`cogen chat`: a session with base, experts and combined model, at the terminal or from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.generate import (
    ModelBase,
    ModelFolders,
    ReplyTokens,
    SamplingSeed,
    Temperature,
    WithoutExpert,
    with_model,
)
from cogen.cli.options import named_paths
from cogen.console import safe, safe_reply, typed_text

if TYPE_CHECKING:
    from cogen.base import Base
    from cogen.evaluate.models import ModelSet

HELP = """\
text                 is continued (with --template: answered)
/use NAME            switch to another model: {names}
/all                 show every model's reply side by side; /use goes back to one
/without NAME ...    of a routed model, leave these experts aside; none ends it
/temperature NUMBER  0 always takes the most likely token
/tokens NUMBER       longest reply
/keep                keep earlier turns as context, or stop keeping them
/new                 forget earlier turns
/quit                or Ctrl-D"""


def chat(
    source: Annotated[Path | None, typer.Argument(help="Run or adapter folder; the newest run by default.")] = None,
    model: Annotated[str | None, typer.Option(help="base, combined, expert:DOMAIN or a name.")] = None,
    adapters: ModelFolders = [],  # noqa: B006
    base: ModelBase = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show all models in columns.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Use the base's chat template.")] = False,
    max_tokens: ReplyTokens = 128,
    temperature: Temperature = 0.7,
    seed: SamplingSeed = 0,
    without: WithoutExpert = [],  # noqa: B006
) -> None:
    """Chat with the models of a run.

    Each line of text is continued. /use switches the model, /help lists all commands. Of a routed
    model, the expert that its gate chooses answers, and is named on stderr.

    Example: cogen chat runs/quickstart
    """
    from cogen.base import load_base
    from cogen.errors import ConfigError
    from cogen.evaluate.models import find_models

    model_set = find_models(source, named_paths(adapters, "--adapter"), base)
    first = model or model_set.names[0]
    model_set.require(first, without)
    loaded = load_base(model_set.base, precision=model_set.precision)
    if template and loaded.tokenizer.chat_template is None:
        expected, fix = "a base with a chat template", "Leave --template out."
        raise ConfigError("cannot use option", expected=expected, got="none", where="--template", fix=fix)
    session = Session(loaded, model_set, None if side_by_side else first, template, max_tokens, temperature, seed)
    session.without = tuple(without)
    with session:
        print(f"{model_set.base} · {', '.join(map(safe, model_set.names))} · /help", file=sys.stderr)
        for line in _lines():
            if not session.take(typed_text(line, "stdin")):
                return


@dataclass
class Session:
    """One conversation; the model that answers stays attached until the user names another.

    Args:
        model: the one that answers; None is all of them.
        template: use the base's chat template, and keep earlier turns as context.
        without: experts that a routed model leaves aside.
    """

    base: Base
    model_set: ModelSet
    model: str | None
    template: bool
    max_tokens: int
    temperature: float
    seed: int
    without: tuple[str, ...] = ()
    keep: bool = False
    turns: list[tuple[str, str]] = field(default_factory=list)
    _attached: ExitStack = field(default_factory=ExitStack)
    _speaker: str | None = None
    _switch: Callable[[str], None] | None = None

    def __enter__(self) -> Session:
        self.keep = self.template
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.close()

    def take(self, line: str) -> bool:
        """Answer a line, or carry out its command; False after /quit."""
        from cogen.errors import CogenError, ConfigError

        if line.startswith("/"):
            word, _, rest = line[1:].partition(" ")
            if word in ("quit", "exit"):
                return False
            try:
                self._command(word, rest.strip())
            except (CogenError, ValueError) as error:
                print(error, file=sys.stderr)
        elif line.strip():
            try:
                self._answer(line)
            except ConfigError as error:
                print(error, file=sys.stderr)  # such as a context that is full; /new and /tokens mend it
            except KeyboardInterrupt:
                print("\n(stopped)", file=sys.stderr)
        return True

    def _command(self, word: str, rest: str) -> None:
        from cogen.evaluate.matrix import ROUTED

        if word == "use":
            self.model_set.require(rest, self.without)
            self.model = rest
        elif word == "without":
            names = tuple(rest.split())
            self.model_set.require(ROUTED, names)
            self.without = names
        elif word == "all":
            self.model = None
        elif word == "temperature":
            self.temperature = max(float(rest), 0.0)
        elif word == "tokens":
            self.max_tokens = max(int(rest), 1)
        elif word == "keep":
            self.keep = not self.keep
        elif word == "new":
            self.turns.clear()
        elif word != "help":
            raise ValueError(f"/{word} is not known")
        said = HELP.format(names=", ".join(self.model_set.names)) if word == "help" else self._state()
        print(said, file=sys.stderr)

    def _state(self) -> str:
        kept = f"{len(self.turns)} turns kept" if self.keep else "each line by itself"
        aside = f" without {', '.join(self.without)}" if self.without else ""
        return f"{self.model or 'all models'}{aside} · temperature {self.temperature:g} · {self.max_tokens} tokens · {kept}"

    def _answer(self, line: str) -> None:
        reply = self._alone(self.model, line) if self.model is not None else self._side_by_side(line)
        if self.keep:
            self.turns.append((line, reply))

    def _alone(self, name: str, line: str) -> str:
        pieces = []
        for piece in self._reply(name, line):
            pieces.append(piece)
            print(safe_reply(piece), end="", flush=True)
        print()
        return "".join(pieces)

    def _side_by_side(self, line: str) -> str:
        """Every model in a column of its own, filled while it generates; the first model's reply is kept as context."""
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text

        said = dict.fromkeys(self.model_set.names, "")

        def table() -> Table:
            columns = Table(*map(safe, said), expand=True)
            columns.add_row(*(Text(safe_reply(text)) for text in said.values()))
            return columns

        with Live(table(), console=Console(), auto_refresh=False) as live:
            for name in said:
                for piece in self._reply(name, line):
                    said[name] += piece
                    live.update(table(), refresh=live.console.is_terminal)
            live.update(table(), refresh=True)
        return said[self.model_set.names[0]]

    def _reply(self, name: str, line: str) -> Iterator[str]:
        from cogen.evaluate.generate import gate_ids, stream
        from cogen.evaluate.matrix import ROUTED
        from cogen.routing.choose import choose
        from cogen.train.lora import attached_all

        prompt = self._prompt(line)
        if name != self._speaker:
            self._attached.close()
            self._speaker = self._switch = None
        if name == ROUTED and (routed := self.model_set.routed) is not None:
            choice = choose(self.base, routed, gate_ids(self.base, prompt), self.without)
            print(safe(f"[{choice}]"), file=sys.stderr, flush=True)
            if self._switch is None:
                models = {name: dict(adapter.factors) for name, adapter in routed.opened.items()}
                self._switch = self._attached.enter_context(attached_all(self.base.model, models))
            self._switch(choice.expert)
        elif name != self._speaker:
            self._attached.enter_context(with_model(self.base, self.model_set, name))
        self._speaker = name
        seed = self.seed + len(self.turns)
        yield from stream(self.base, prompt, self.max_tokens, self.temperature, seed)

    def _prompt(self, line: str) -> str:
        """The text that the model continues."""
        turns = self.turns if self.keep else []
        if not self.template:
            return "".join(f"{said}{reply}\n\n" for said, reply in turns) + line
        roles = [{"role": r, "content": t} for turn in turns for r, t in zip(("user", "assistant"), turn, strict=True)]
        messages = [*roles, {"role": "user", "content": line}]
        return str(self.base.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _lines() -> Iterator[str]:
    """The user's lines, with editing and history at a terminal."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - its import alone gives input() editing and history
    while True:
        try:
            yield input("\n> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
