"""A local simulation of many clients in Flower: prepare, start, follow, end."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cogen.base import describe_base, load_tokenizer
from cogen.config import RunConfig, load_config
from cogen.data.card import DataCard
from cogen.data.prepare import prepare
from cogen.data.run_metadata import describe_run
from cogen.data.walk import corpus_root
from cogen.errors import CogenError, ConfigError, RunError
from cogen.evaluate.baselines import OnEvent, tell
from cogen.evaluate.general import require_unseen
from cogen.evaluate.run_scores import read_evaluation, score_seed, summarize_runs
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.files import write_file
from cogen.flower.prefork_programs import prepared
from cogen.flower.programs import start_supervised, stop_supervised
from cogen.flower.run_events import Watcher, follow_run
from cogen.flower.superlink import free_port, superlink
from cogen.flower.superlink_client import SuperLinkClient
from cogen.node.prefork import can_fork, prefork_argv
from cogen.node.resident import WARM
from cogen.report.track import Tracking
from cogen.runs import RunFolder
from cogen.shipped_files import shipped_app, shipped_config
from cogen.train.start import require_context, select_modules


def simulate(
    config: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    port: int | None = None,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Run a whole federation on this machine through Flower's own SuperLink and ServerApp.

    With `evaluate.num_seeds` once for each seed, and with `evaluate.baselines` and `evaluate.general`, what it
    is measured against is trained and scored after each.

    Args:
        config: a TOML file, or the name of a shipped one.
        out: the run folder; None is `runs/<name of the config>`.
        resume: continue with the first thing that is missing, with the settings that the run began with;
            baselines, seeds and general text may be asked for in addition.
        follow: called with each new event of the run, and with each training step (`"event": "step"`).
    Returns: the run folder, with `merged/`, `evaluation.json`, and where something is scored, `seed_summary.json`.
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
    run = run_folder(config, out)
    if resume:
        run.require_resumable()
        settings = load_config(run.config, overrides)
    else:
        settings = load_config(source, overrides)
    cards = check_input(settings)
    free_port(port)
    with run.lock() as handle:
        if resume:
            _continue(run, settings)
        else:
            run.create(settings.to_toml(), overwrite=overwrite)
        describe_run(cards).write(run.run_metadata)
        _every_seed(run, settings, port, handle, on_event or (lambda event: None))
    return run


def _every_seed(run: RunFolder, settings: RunConfig, port: int | None, handle: int, show: OnEvent) -> None:
    """The run of each seed and what is measured beside it; after each, what is known so far is written down.

    Where something is scored, the events of `run` say so before the first round: its rounds are not its end then.
    """
    has_summary = settings.evaluate.has_summary
    for number, seed in enumerate(settings.seeds, start=1):
        began, once = time.monotonic(), settings.with_seed(seed)
        about = {"seed": seed, "number": number, "num_seeds": len(settings.seeds)}
        if has_summary:
            tell(run, show, "seed_started", **about)
        one = run if number == 1 else _open_seed(run.seed(seed), once)
        if not _is_complete(one, once):
            _federate(one, once, free_port(port), handle, show)
        if has_summary:
            _summarize(run, one, settings, number, show)
            tell(run, show, "seed_finished", **about, seconds=time.monotonic() - began)


def _summarize(run: RunFolder, one: RunFolder, settings: RunConfig, number: int, show: OnEvent) -> None:
    """What is measured beside the seed `number`, whose run is `one`, and all seeds so far together."""
    seed = settings.seeds[number - 1]
    try:
        score_seed(one, settings.with_seed(seed), run.baselines(seed), show)
        SeedSummaryFile.of(summarize_runs(run, settings.seeds[:number])).write(run.seed_summary)
    except CogenError as error:
        # Not `run_failed`: the rounds are over, and a resumed run starts none of them again.
        tell(run, show, "seed_summary_failed", reason=str(error))
        raise


def _is_complete(run: RunFolder, settings: RunConfig) -> bool:
    """Whether nothing is left for Flower: the run is over, and every domain has sent its scores."""
    return run.is_finished() and {d.name for d in settings.domains} <= set(read_evaluation(run).domains)


def _open_seed(run: RunFolder, settings: RunConfig) -> RunFolder:
    """The folder of one more seed, made or found."""
    if run.config.is_file():
        _continue(run, settings)
    else:
        shutil.rmtree(run.path, ignore_errors=True)  # cut off while it was made: its config comes last
        run.create(settings.to_toml())
    return run


def _federate(run: RunFolder, settings: RunConfig, listen: int, handle: int, show: OnEvent) -> None:
    """The rounds that are left, through Flower."""
    seen = Watcher(run)
    seen.skip()
    show({"event": "starting"})
    with Tracking(settings, run.path, run.path.name) as tracking:

        def told(event: dict[str, Any]) -> None:
            tracking.on_event(event)
            show(event)

        with (
            _private_home() as home,
            _trainers(settings, home, run.logs, handle) as known,
            superlink(home, run.logs, listen, handle, known, prepared(home, *_at_a_time(settings))) as link,
        ):
            superlink_client = SuperLinkClient(home, run.logs)
            with shipped_app() as app:
                run_id = superlink_client.submit(app, str(run.path), _clients(settings))
            follow_run(seen, told, link.alive, lambda: superlink_client.status(run_id))


@contextmanager
def _trainers(settings: RunConfig, home: Path, logs: Path, handle: int) -> Iterator[dict[str, str]]:
    """A warm trainer, which gets so while Flower starts; yields what its callers must have in their environment."""
    if not can_fork():
        yield {}
        return
    path = home / "trainers.sock"
    wanted = os.environ.get("OMP_NUM_THREADS", "")  # Ray leaves it alone, too
    threads = int(wanted) if wanted.isdecimal() and int(wanted) else _at_a_time(settings)[1]
    base, kernels = settings.base, settings.train.cpu_kernels
    program = prefork_argv(path, threads, base.name, base.precision, kernels)
    guard = start_supervised(program, logs / "trainer.log", os.environ, handle)
    try:
        yield {WARM: str(path)}
    finally:
        stop_supervised(guard)


def _at_a_time(settings: RunConfig) -> tuple[int, int]:
    """How many clients train at a time, and how many cores each has to itself."""
    parallel = min(settings.federation.parallel_clients, len(settings.domains))
    return parallel, max(1, (os.cpu_count() or 1) // parallel)


def _clients(settings: RunConfig) -> str:
    """How many clients there are, and at a time; Ray gives each as many threads as it has cores to itself."""
    parallel, each = _at_a_time(settings)
    nodes = f"num-supernodes={len(settings.domains)}"
    return f"{nodes} client-resources-num-cpus={each} init-args-num-cpus={each * parallel}"


def run_folder(config: str | Path, out: str | Path | None) -> RunFolder:
    """Where a run of that config lies: `out`, or `runs/<name of the config>`."""
    return RunFolder(out or Path("runs") / shipped_config(str(config)).stem)


def check_input(settings: RunConfig) -> dict[str, DataCard]:
    """Fail before anything is started: the base is found or fetched, corpora are prepared, once for all rounds.

    Returns: each domain's data card; the perplexity filter is not in it.
    """
    settings.require_rounds()
    settings.require_data()
    mixed = {"train.replay": settings.train.replay, "train.annealing": settings.train.annealing}
    corpora = settings.corpora | {k: path for k, path in mixed.items() if path is not None}
    paths = list(corpora.values())
    for path in (*paths, *([public] if (public := settings.federation.validation) else [])):
        corpus_root(path)
    if settings.evaluate.general is not None:
        require_unseen(settings.evaluate.general, corpora, settings.data.near_duplicate_jaccard)
    base = describe_base(settings.base.name)
    select_modules(base.modules, settings.train)
    require_context(base, settings.train)
    load = partial(load_tokenizer, base)  # not needed where every corpus has been prepared before
    # The filter needs the base's weights: there, clients prepare their corpora themselves.
    data = settings.data.model_copy(update={"perplexity_filter": False})
    cards = {}
    for path in paths:
        fingerprint = base.fingerprint.tokenizer
        made = prepare(path, load, data, settings.evaluate.heldout_frac, tokenizer_hash=fingerprint, base=base.name)
        cards[path] = made.card
    return {d.name: cards[d.data] for d in settings.domains if d.data is not None}


def _continue(run: RunFolder, settings: RunConfig) -> None:
    """Only what is measured in addition may differ from the settings that the run began with."""
    began = load_config(run.config)
    asked = settings.evaluate
    added: dict[str, object] = {"baselines": asked.baselines, "num_seeds": asked.num_seeds}
    if began.evaluate.general is None:
        added["general"] = asked.general
    if settings != began.model_copy(update={"evaluate": began.evaluate.model_copy(update=added)}):
        raise RunError(
            "cannot resume",
            expected="the settings that the run began with",
            got="others",
            where=str(run.config),
            fix="Leave --set out, or start a new run with --out.",
        )
    if settings != began:
        write_file(run.config, settings.to_toml().encode())


@contextmanager
def _private_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="cogen-flwr-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
