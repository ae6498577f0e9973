"""A local simulation of a federation in Flower: its input is checked, then each seed's rounds run and are scored."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from cogen.base import describe_base, load_tokenizer
from cogen.config import RunConfig, load_config
from cogen.data import read_corpus
from cogen.data.account import Account, OnAccount, tell_losses
from cogen.data.card import DataCard
from cogen.data.prepare import prepare
from cogen.data.run_metadata import describe_run
from cogen.data.walk import corpus_root
from cogen.errors import CogenError, ConfigError
from cogen.evaluate.baselines import OnEvent, tell
from cogen.evaluate.general import require_unseen
from cogen.evaluate.run_scores import read_evaluation, score_routed_row, score_seed, summarize_runs
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.files import write_file
from cogen.flower.run_events import open_run, other_settings
from cogen.flower.simulated_rounds import simulate_rounds
from cogen.runs import RunFolder
from cogen.shipped_files import shipped_config
from cogen.train.start import require_context, select_modules


def simulate(
    config: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Run a whole federation on this machine through Flower's own SuperLink and ServerApp.

    It runs once for each of `evaluate.num_seeds`. With `evaluate.baselines` and `evaluate.general`, the baselines are
    trained and scored after each seed.

    Args:
        config: a TOML file, or the name of a shipped one.
        out: the run folder; None is `runs/<name of the config>`.
        resume: continue with the first part that is missing, with the settings of the first start; baselines, seeds
            and general text may be added.
        on_event: called with each new event of the run, and with each training step (`"event": "step"`).
    Returns: the run folder, with `merged/`, `evaluation.json`, and where something is scored, `seed_summary.json`.
    Raises:
        CogenError: bad input, before anything starts; or the run failed, and can be resumed.

    >>> run = simulate("configs/quickstart.toml")  # doctest: +SKIP
    >>> run.merged.is_dir()                        # doctest: +SKIP
    True
    """
    _require_ray()
    run, source = run_folder(config, out), shipped_config(str(config))
    settings = open_run(run, source, overrides, resume=resume, overwrite=overwrite, command="simulate")
    show = on_event or (lambda event: None)
    cards = check_input(settings, lambda name, account: show({"event": "corpus_read", "text": f"{name}: {account}"}))
    with run.lock() as handle:
        if resume:
            _continue(run, settings)
        else:
            run.create(settings.to_toml(), overwrite=overwrite)
        describe_run(cards).write(run.run_metadata)
        _every_seed(run, settings, handle, show)
    return run


def _require_ray() -> None:
    """Raise ConfigError where Ray is missing: Flower runs the clients of a simulation in it, and nothing else needs it."""
    if find_spec("ray") is None:
        raise ConfigError(
            "cannot simulate",
            expected="Ray (pip install 'cogen-ai[simulation]')",
            got="none",
            fix="Install it; in a clone, pip install --constraint constraints.txt --editable '.[simulation]'.",
        )


def _every_seed(run: RunFolder, settings: RunConfig, handle: int, show: OnEvent) -> None:
    """Each seed's run and its scores; the summary of all seeds so far is written after each.

    Where something is scored, `seed_started` comes before the first round: whoever follows the events of `run` then
    knows that the end of the rounds is not the end of the run.
    """
    has_summary = settings.evaluate.has_summary
    for number, seed in enumerate(settings.seeds, start=1):
        began, once = time.monotonic(), settings.with_seed(seed)
        about = {"seed": seed, "number": number, "num_seeds": len(settings.seeds)}
        if has_summary:
            tell(run, show, "seed_started", **about)
        one = run if number == 1 else _open_seed(run.seed(seed), once)
        if not _is_complete(one, once):
            simulate_rounds(one, once, handle, show)
        if once.federation.result == "routed":
            score_routed_row(one, once, show)
        if has_summary:
            _summarize(run, one, settings, number, show)
            tell(run, show, "seed_finished", **about, seconds=time.monotonic() - began)


def _summarize(run: RunFolder, one: RunFolder, settings: RunConfig, number: int, show: OnEvent) -> None:
    """Score the run `one` of the seed `number`, and summarize all seeds so far."""
    seed = settings.seeds[number - 1]
    try:
        score_seed(one, settings.with_seed(seed), run.baselines(seed), show)
        SeedSummaryFile.of(summarize_runs(run, settings.seeds[:number])).write(run.seed_summary)
    except CogenError as error:
        # Not `run_failed`: the rounds are complete, and a resumed run repeats none of them.
        tell(run, show, "seed_summary_failed", reason=str(error))
        raise


def _is_complete(run: RunFolder, settings: RunConfig) -> bool:
    """Whether the rounds are complete, and every domain has sent its scores."""
    return run.is_finished() and {d.name for d in settings.domains} <= set(read_evaluation(run).domains)


def _open_seed(run: RunFolder, settings: RunConfig) -> RunFolder:
    """The folder of one more seed, made or found."""
    if run.config.is_file():
        _continue(run, settings)
    else:
        shutil.rmtree(run.path, ignore_errors=True)  # a start that was cut off: the config is written last
        run.create(settings.to_toml())
    return run


def run_folder(config: str | Path, out: str | Path | None) -> RunFolder:
    """The folder of a run of that config: `out`, or `runs/<name of the config>`."""
    return RunFolder(out or Path("runs") / shipped_config(str(config)).stem)


def check_input(settings: RunConfig, on_account: OnAccount | None = None) -> dict[str, DataCard]:
    """Fail before anything starts: find or fetch the base, and prepare the corpora, once for all rounds.

    Args:
        on_account: called with the name of each corpus and what became of it.
    Returns: each domain's data card, without the perplexity filter.
    """
    settings.require_rounds()
    settings.require_data()
    mixed = {"train.replay": settings.train.replay, "train.annealing": settings.train.annealing}
    corpora = settings.corpora | {k: path for k, path in mixed.items() if path is not None}
    paths = list(dict.fromkeys(corpora.values()))
    for path in (*paths, *([public] if (public := settings.federation.validation) else [])):
        corpus_root(path)
    if settings.evaluate.general is not None:
        require_unseen(settings.evaluate.general, corpora, settings.data.near_duplicate_jaccard)
    base = describe_base(settings.base.name)
    select_modules(base.modules, settings.train)
    require_context(base, settings.train)
    load = partial(load_tokenizer, base)  # not called where every corpus has been prepared before
    # The perplexity filter needs the base's weights: with it, clients prepare their corpora themselves.
    data = settings.data.model_copy(update={"perplexity_filter": False})
    cards = {}
    for path in paths:
        fingerprint = base.fingerprint.tokenizer
        made = prepare(path, load, data, settings.evaluate.heldout_frac, tokenizer_hash=fingerprint, base=base.name)
        cards[path] = made.card
    accounts = {name: Account.of_card(cards[path]) for name, path in corpora.items()} | _scored_accounts(settings)
    tell_losses(accounts, settings.data.max_loss_frac, on_account)
    return {d.name: cards[d.data] for d in settings.domains if d.data is not None}


def _scored_accounts(settings: RunConfig) -> dict[str, Account]:
    """What became of the corpora on which models are only scored."""
    paths = {"evaluate.general": settings.evaluate.general, "federation.validation": settings.federation.validation}
    return {n: Account.of_corpus(read_corpus(path), str(path)) for n, path in paths.items() if path is not None}


def _continue(run: RunFolder, settings: RunConfig) -> None:
    """Check that only the scoring differs from the settings with which the run began, and keep the new settings."""
    began = load_config(run.config)
    evaluate = settings.evaluate
    added: dict[str, object] = {"baselines": evaluate.baselines, "num_seeds": evaluate.num_seeds}
    if began.evaluate.general is None:
        added["general"] = evaluate.general
    if settings != began.model_copy(update={"evaluate": began.evaluate.model_copy(update=added)}):
        raise other_settings(run)
    if settings != began:
        write_file(run.config, settings.to_toml().encode())
