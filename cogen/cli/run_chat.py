"""The work of `cogen chat`, imported only when it runs: a session at the terminal, or from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cogen.base import Base, load_base
from cogen.cli.run_generate import with_model
from cogen.cli.show import named_paths
from cogen.errors import ConfigError
from cogen.evaluate.generate import stream
from cogen.evaluate.models import ModelSet, find_models

HELP = """\
text                 is continued (with --template: answered)
/use NAME            another model: {names}
/all                 every reply by every model, side by side; /use goes back to one
/temperature NUMBER  0 takes the likeliest token each time
/tokens NUMBER       longest reply
/keep                keep what was said before as context, or no longer
/new                 forget what was said
/quit                or Ctrl-D"""


def run_chat(
    source: Path | None,
    model: str | None,
    adapters: list[str],
    base_name: str | None,
    side_by_side: bool,
    template: bool,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> None:
    """Load the base, then answer line by line until the end of input."""
    model_set = find_models(source, named_paths(adapters, "--adapter"), base_name)
    first = model or model_set.names[0]
    model_set.load(first)
    base = load_base(model_set.base, precision=model_set.precision)
    if template and base.tokenizer.chat_template is None:
        raise ConfigError(
            "cannot use option",
            expected="a base with a form of chat",
            got="none",
            where="--template",
            fix="Leave it out.",
        )
    session = Session(base, model_set, None if side_by_side else first, template, max_tokens, temperature, seed)
    with session:
        print(f"{model_set.base} · {', '.join(model_set.names)} · /help", file=sys.stderr)
        for line in _lines():
            if not session.take(line):
                return


@dataclass
class Session:
    """One conversation; the model that speaks stays attached until another is asked for.

    Args:
        model: the row that speaks; None is all of them.
        template: put lines into the base's form of chat, and keep what was said.
    """

    base: Base
    model_set: ModelSet
    model: str | None
    template: bool
    max_tokens: int
    temperature: float
    seed: int
    keep: bool = False
    turns: list[tuple[str, str]] = field(default_factory=list)
    _attached: ExitStack = field(default_factory=ExitStack)
    _speaker: str | None = None

    def __enter__(self) -> Session:
        self.keep = self.template
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.close()

    def take(self, line: str) -> bool:
        """Answer a line or do what it says; False is the end."""
        if line.startswith("/"):
            word, _, rest = line[1:].partition(" ")
            if word in ("quit", "exit"):
                return False
            try:
                self._command(word, rest.strip())
            except (ConfigError, ValueError) as error:
                print(error, file=sys.stderr)
        elif line.strip():
            try:
                self._answer(line)
            except KeyboardInterrupt:
                print("\n(stopped)", file=sys.stderr)
        return True

    def _command(self, word: str, rest: str) -> None:
        if word == "use":
            self.model_set.load(rest)
            self.model = rest
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
        return f"{self.model or 'all models'} · temperature {self.temperature:g} · {self.max_tokens} tokens · {kept}"

    def _answer(self, line: str) -> None:
        reply = self._alone(self.model, line) if self.model is not None else self._side_by_side(line)
        if self.keep:
            self.turns.append((line, reply))

    def _alone(self, name: str, line: str) -> str:
        pieces = []
        for piece in self._reply(name, line):
            pieces.append(piece)
            print(piece, end="", flush=True)
        print()
        return "".join(pieces)

    def _side_by_side(self, line: str) -> str:
        """Every model in a column of its own, filled while it speaks; the first one's reply is what is kept."""
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text

        said = dict.fromkeys(self.model_set.names, "")

        def table() -> Table:
            columns = Table(*said, expand=True)
            columns.add_row(*map(Text, said.values()))
            return columns

        with Live(table(), console=Console(), auto_refresh=False) as live:
            for name in said:
                for piece in self._reply(name, line):
                    said[name] += piece
                    live.update(table(), refresh=live.console.is_terminal)
            live.update(table(), refresh=True)
        return said[self.model_set.names[0]]

    def _reply(self, name: str, line: str) -> Iterator[str]:
        if name != self._speaker:
            self._attached.close()
            self._attached.enter_context(with_model(self.base, self.model_set, name))
            self._speaker = name
        seed = self.seed + len(self.turns)
        yield from stream(self.base, self._prompt(line), self.max_tokens, self.temperature, seed)

    def _prompt(self, line: str) -> str:
        """What the model reads."""
        turns = self.turns if self.keep else []
        if not self.template:
            return "".join(f"{said}{reply}\n\n" for said, reply in turns) + line
        roles = [{"role": r, "content": t} for turn in turns for r, t in zip(("user", "assistant"), turn, strict=True)]
        asked = [*roles, {"role": "user", "content": line}]
        return str(self.base.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


def _lines() -> Iterator[str]:
    """Lines of the user, with editing and history at a terminal."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - its import alone gives input() editing and history
    while True:
        try:
            yield input("\n> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
