"""A local simulation of many clients in Flower: prepare, start, follow, end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cogen.base import describe_base, load_tokenizer
from cogen.config import RunConfig
from cogen.data.prepare import prepare
from cogen.data.walk import corpus_root
from cogen.federation.control import Control
from cogen.federation.follow import Follow, begin_run, follow_run, open_run
from cogen.federation.shipped import shipped_config, shipped_root
from cogen.federation.superlink import free_port, superlink
from cogen.runs import RunFolder
from cogen.train.start import target_modules


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
    source = shipped_config(str(config))
    run = RunFolder(out or Path("runs") / source.stem)
    settings = open_run(run, source, list(overrides), resume=resume, overwrite=overwrite, command="simulate")
    check_input(settings)
    listen = free_port(port)
    show = follow or (lambda event: None)
    with run.lock() as handle:
        seen = begin_run(run, settings, resume=resume, overwrite=overwrite)
        show({"event": "starting"})
        with _private_home() as home, superlink(home, run.logs, listen, handle) as link:
            control = Control(home, run.logs)
            run_id = control.submit(shipped_root(), str(run.path), _clients(settings))
            follow_run(seen, show, link.alive, lambda: control.status(run_id))
    return run


def _clients(settings: RunConfig) -> str:
    """How many clients there are, and at a time; Ray gives each as many threads as it has cores to itself."""
    parallel = min(settings.federation.parallel_clients, len(settings.domains))
    each = max(1, (os.cpu_count() or 1) // parallel)
    nodes = f"num-supernodes={len(settings.domains)}"
    return f"{nodes} client-resources-num-cpus={each} init-args-num-cpus={each * parallel}"


def check_input(settings: RunConfig) -> None:
    """Fail before anything is started: the base is found or fetched, corpora are prepared, once for all rounds."""
    settings.require_rounds()
    settings.require_data()
    named = (*(d.data for d in settings.domains), settings.train.replay, settings.train.end_phase)
    paths = [path for path in named if path is not None]
    for path in paths:
        corpus_root(path)
    base = describe_base(settings.base.name)
    target_modules(base.modules, settings.train)
    tokenizer = load_tokenizer(base)
    # The filter needs the base's weights: there, clients prepare their corpora themselves.
    data = settings.data.model_copy(update={"perplexity_filter": False})
    for path in paths:
        contract = base.contract.tokenizer
        prepare(path, tokenizer, data, settings.evaluate.heldout_frac, tokenizer_hash=contract, base=base.name)


@contextmanager
def _private_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="cogen-flwr-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
