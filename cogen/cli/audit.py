"""`cogen audit`: what adapters remember of the text that they were trained on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cogen.cli.options import LARGEST_SEED, AsJson, in_bounds, named_paths
from cogen.console import BYTES, TOKENS, Bar, print_json, safe

if TYPE_CHECKING:
    from cogen.audit.canaries import CanarySet
    from cogen.audit.record import CanaryFigures
    from cogen.audit.targets import Targets, Training
    from cogen.base import Base
    from cogen.train.loop import Step

QUICK_WINDOWS = 32
MAX_WINDOWS = 100_000


def audit(
    run: Annotated[Path | None, typer.Argument(help="A run folder of cogen simulate.")] = None,
    adapter: Annotated[list[str], typer.Option(help="NAME=FOLDER of cogen train; may be repeated.")] = [],  # noqa: B006
    data: Annotated[list[str], typer.Option(help="NAME=PATH of its corpus.")] = [],  # noqa: B006
    base: Annotated[str | None, typer.Option(help="Base model instead of the adapters' own.")] = None,
    rounds: Annotated[Literal["last", "all"], typer.Option(help="Also each earlier round's global adapter.")] = "last",
    windows: Annotated[
        int, typer.Option(help="Windows of trained and of unseen text.", callback=in_bounds(1, MAX_WINDOWS))
    ] = 128,
    quick: Annotated[
        bool, typer.Option("--quick", help="32 windows: in a quarter of the time, with wide bounds.")
    ] = False,
    canaries: Annotated[
        int, typer.Option(help="Sentences to plant; trains each domain again.", callback=in_bounds(0, 1000))
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of all choices.", callback=in_bounds(0, LARGEST_SEED))] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write; audit.json in a run folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what adapters remember of their training text.

    Four attacks: membership (AUC; 0.5 is chance), verbatim continuation of 50 tokens, completion of
    personal data, and planted canaries. Each model reads 256 windows of 128 tokens: with
    smollm2-135m three to seven minutes on two cores, by domain. Only figures are shown and written, of a
    run in its report and model card, too.

    Example: cogen audit --adapter grid=adapters/grid --data grid=grid.jsonl
    """
    from cogen.audit.audit import plan_audit, run_audit
    from cogen.audit.record import format_audit
    from cogen.report import write_report
    from cogen.train.memory import tune_allocator

    tune_allocator()
    loaded, targets, place = _targets(run, named_paths(adapter, "--adapter"), named_paths(data, "--data"), base, rounds)
    plan = plan_audit(loaded, targets, most=min(windows, QUICK_WINDOWS) if quick else windows, seed=seed)
    planted = _plan_canaries(loaded, targets, canaries, seed) if canaries else None
    with Bar("audit", TOKENS, plan.num_tokens) as bar:
        found = run_audit(loaded, plan, lambda model, domain, num: bar.advance(num, f"{model} on {domain}"))
    path = out or place
    if path is not None:
        found.write(path)
    if planted is not None:
        found = found.model_copy(update={"canaries": _canaries(loaded, targets, planted, seed)})
        if path is not None:
            found.write(path)
    written = [] if path is None else [path]
    if run is not None and path == place:
        written.append(write_report(run))
    if as_json:
        print_json(found.model_dump())
    else:
        print(format_audit(found), end="")
        print("".join(f"\n{file}" for file in written), end="\n" if written else "")


def _targets(
    folder: Path | None, folders: Mapping[str, str], paths: Mapping[str, str], base_name: str | None, rounds: str
) -> tuple[Base, Targets, Path | None]:
    """The base, what is audited, and where a run's audit is written."""
    from cogen.audit.named_targets import named_targets
    from cogen.audit.run_targets import require_simulation, run_targets
    from cogen.base import load_base
    from cogen.config import load_config
    from cogen.errors import ConfigError
    from cogen.evaluate.models import find_models
    from cogen.runs import RunFolder

    if (folder is None) == (not folders) or bool(folders) != bool(paths):
        got = "both" if folder is not None else "neither" if not (folders or paths) else "one of them"
        expected = "a run folder, or --adapter NAME=FOLDER and --data NAME=PATH"
        raise ConfigError("cannot audit", expected=expected, got=got, fix="See cogen audit --help.")
    with Bar("data", BYTES) as bar:
        if folder is None:
            base = load_base(find_models(None, folders, base_name).base)
            return base, named_targets(base, folders, paths, bar.update_part), None
        run = RunFolder(folder)
        require_simulation(run)
        config = load_config(run.config)
        base = load_base(base_name or config.base.name, precision=config.base.precision)
        return base, run_targets(base, run, has_rounds=rounds == "all", progress=bar.update_part), run.audit


def _plan_canaries(base: Base, targets: Targets, num: int, seed: int) -> CanarySet:
    """Draw canaries; says what they cost, and fails before the long work where they do not fit a domain's text."""
    from cogen.audit.canaries import make_canaries, plant

    drawn, domains = make_canaries(base, num, seed), _trainings(targets)
    for training in domains.values():
        plant(training, drawn.planted, seed)
    for name in sorted({domain.name for domain in targets.domains} - set(domains)):
        print(
            safe(f"{name}: no canaries, since it was trained with other text that is not known here"), file=sys.stderr
        )
    trained = sum(training.num_tokens for training in domains.values())
    scored = drawn.num_scored_tokens * len(domains)
    print(f"canaries: {trained:,} tokens to train, then {scored:,} to score", file=sys.stderr)
    return drawn


def _canaries(base: Base, targets: Targets, drawn: CanarySet, seed: int) -> tuple[CanaryFigures, ...]:
    """Train an adapter on planted text for every domain that can be trained again, and attack it."""
    from cogen.audit.exposure import audit_canaries

    found: list[CanaryFigures] = []
    for name, training in _trainings(targets).items():
        with Bar(f"canaries · {name}", TOKENS, training.num_tokens + drawn.num_scored_tokens) as bar:
            found += audit_canaries(base, training, drawn, name, seed=seed, on_step=_on_step(bar), progress=bar.advance)
    return tuple(found)


def _trainings(targets: Targets) -> dict[str, Training]:
    """How each domain's adapter was trained, where that is known."""
    return {domain.name: domain.training for domain in targets.domains if domain.training is not None}


def _on_step(bar: Bar) -> Callable[[Step], None]:
    return lambda step: bar.update(step.num_tokens, f"loss {step.loss_nats:.3f}")
