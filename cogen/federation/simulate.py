"""A local simulation of many clients in Flower: prepare, start, follow, end."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogen.base import describe_base, load_tokenizer
from cogen.config import RunConfig, load_config
from cogen.data.prepare import prepare
from cogen.data.walk import corpus_root
from cogen.errors import ConfigError, FederationError, RunError
from cogen.evaluate.matrix import Evaluation
from cogen.federation.shipped import shipped_config, shipped_root
from cogen.federation.superlink import SuperLink, free_port, superlink
from cogen.runs import RunFolder, read_lines
from cogen.train.start import target_modules

POLL_SECONDS = 0.5
# Asking Flower costs a second of CPU, which the training would miss: often until the first event, seldom after.
FIRST_STATUS_SECONDS, STATUS_SECONDS = 10.0, 60.0

Follow = Callable[[dict[str, Any]], None]


def simulate(
    config: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    port: int | None = None,
    follow: Follow | None = None,
) -> RunFolder:
    """Run a whole federation on this machine through Flower's own SuperLink and ServerApp.

    Args:
        config: a TOML file, or the name of a shipped one.
        out: the run folder; None is `runs/<name of the config>`.
        resume: continue from the last complete round, with the settings that the run began with.
        follow: called with each new event of the run, and with each training step (`"event": "step"`).
    Returns: the run folder, with `merged/` and `evaluation.json`.
    Raises:
        CogenError: bad input, before anything is started; or a run that failed and can be resumed.

    >>> run = simulate("configs/quickstart.toml")  # doctest: +SKIP
    >>> run.merged.is_dir()                        # doctest: +SKIP
    True
    """
    if resume and overwrite:
        raise ConfigError(
            "cannot simulate", expected="--resume or --overwrite", got="both", fix="Leave one of them out."
        )
    source = shipped_config(str(config))
    run = RunFolder(out or Path("runs") / source.stem)
    if resume:
        run.require_resumable()
        settings = load_config(run.config, overrides)
    else:
        settings = load_config(source, overrides)
    check_input(settings)
    listen = free_port(port)
    with run.lock() as handle:
        if not resume:
            run.create(settings.to_toml(), overwrite=overwrite)
        seen = Watcher(run)
        if resume:
            _same_settings(run, settings)
            seen.skip()
        show = follow or (lambda event: None)
        show({"event": "starting"})
        with _private_home() as home, superlink(home, run.logs, listen, handle) as link:
            parallel = min(settings.federation.parallel_clients, len(settings.domains))
            run_id = link.submit(shipped_root(), run.path, len(settings.domains), parallel)
            _follow(link, run_id, seen, show)
    return run


def check_input(settings: RunConfig) -> None:
    """Fail before anything is started: the base is found or fetched, corpora are prepared, once for all rounds."""
    settings.require_rounds()
    settings.require_data()
    named = (*(d.data for d in settings.domains), settings.train.replay, settings.train.end_phase)
    paths = [path for path in named if path is not None]
    for path in (*paths, *([public] if (public := settings.federation.validation) else [])):
        corpus_root(path)
    base = describe_base(settings.base.name)
    target_modules(base.modules, settings.train)
    tokenizer = load_tokenizer(base)
    # The filter needs the base's weights: there, clients prepare their corpora themselves.
    data = settings.data.model_copy(update={"perplexity_filter": False})
    for path in paths:
        contract = base.contract.tokenizer
        prepare(path, tokenizer, data, settings.evaluate.heldout_frac, tokenizer_hash=contract, base=base.name)


def _same_settings(run: RunFolder, settings: RunConfig) -> None:
    if settings != load_config(run.config):
        raise RunError(
            "cannot resume",
            expected="the settings that the run began with",
            got="others",
            where=str(run.config),
            fix="Leave --set out, or start a new run with --out.",
        )


class Watcher:
    """New lines of `events.jsonl` and of the nodes' training logs, in order of arrival."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._seen: dict[Path, int] = {}

    def skip(self) -> None:
        """Pass over what is there already."""
        for _ in self.new():
            pass

    def new(self) -> Iterator[dict[str, Any]]:
        """Events and steps since the last call; a step carries `event = "step"` and its domain."""
        for path in sorted(self.run.path.glob("nodes/*/train.jsonl")):
            for line in self._lines(path):
                yield {**line, "event": "step", "domain": path.parent.name}
        yield from self._lines(self.run.events_path)

    def _lines(self, path: Path) -> list[dict[str, Any]]:
        lines = read_lines(path)
        before, self._seen[path] = self._seen.get(path, 0), len(lines)
        return lines[before:]


def _follow(link: SuperLink, run_id: str, seen: Watcher, follow: Follow) -> None:
    """Until the run is over; then raise if it failed."""
    asked, pause = time.monotonic(), FIRST_STATUS_SECONDS
    while True:
        for event in seen.new():
            pause = STATUS_SECONDS
            follow(event)
            if event["event"] == "run_finished":
                return
            if event["event"] == "run_failed":
                raise _run_failed(seen.run, str(event["reason"]))
        if not link.alive():
            raise _run_failed(seen.run, "Flower's SuperLink ended")
        if time.monotonic() - asked > pause:
            asked = time.monotonic()
            status = link.status(run_id)
            if status.startswith("finished"):
                _drain(seen, follow, status)
                return
        time.sleep(POLL_SECONDS)


def _drain(seen: Watcher, follow: Follow, status: str) -> None:
    """Flower says that the run is over: the events must say so too."""
    for event in seen.new():
        follow(event)
        if event["event"] == "run_finished":
            return
        if event["event"] == "run_failed":
            raise _run_failed(seen.run, str(event["reason"]))
    raise _run_failed(seen.run, f"Flower ended it as {status!r}")


def _run_failed(run: RunFolder, reason: str) -> FederationError:
    return FederationError(
        "the run failed",
        expected="every round to end",
        got=reason,
        where=str(run.path),
        fix="See events.jsonl and logs/ there, mend the cause, and continue with --resume.",
    )


@contextmanager
def _private_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="cogen-flwr-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def read_evaluation(run: RunFolder) -> Evaluation:
    """The matrix of a finished run."""
    return Evaluation.from_json(run.evaluation.read_text("utf-8"), str(run.evaluation))
