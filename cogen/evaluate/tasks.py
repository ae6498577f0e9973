"""Tasks of lm-evaluation-harness; the harness runs them on the model in memory."""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.errors import ConfigError, DataError
from cogen.evaluate.scores import TaskScore
from cogen.train.isolation import isolation_of, use_stock_attention
from cogen.train.passes import autocast

if TYPE_CHECKING:
    from cogen.base import Base

BATCH_REQUESTS = 16
STDERR = "_stderr"


@dataclass(frozen=True)
class Tasks:
    """Tasks to run; made by `find_tasks`.

    Args:
        names: names of tasks, groups or tags, one or more.
        folder: folder with the user's own tasks in YAML; paths in them are relative to it.
        limit: number of items per task, from the first one; None runs all.
        manager: the harness's index of tasks.
    """

    names: tuple[str, ...]
    folder: Path | None
    limit: int | None
    manager: Any


def find_tasks(names: Sequence[str], folder: Path | None = None, limit: int | None = None) -> Tasks:
    """Find tasks in `folder`, then among the harness's own, so that a wrong name fails before anything long starts.

    Raises:
        ConfigError: the harness is not installed, the folder is missing, a task is unknown, or the limit is below 1.
    """
    if folder is not None and not folder.is_dir():
        raise _unusable("a folder with YAML files", "none", "Check the path.", str(folder))
    if limit is not None and limit < 1:
        raise _unusable("1 item per task or more", str(limit), "Raise --task-limit.")
    own = None if folder is None else str(folder.resolve())
    manager = None if own is None else _manager(own, include_defaults=False)
    if manager is None or not set(names) <= set(manager.all_tasks):
        manager = _manager(own, include_defaults=True)  # thousands of files: ten seconds or more
    known = manager.all_tasks
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            fix = (
                f"Did you mean {near[0]!r}?"
                if near
                else "See the harness's list of tasks, or name a folder with --task-folder."
            )
            raise _unusable("a task of lm-evaluation-harness", repr(name), fix)
    return Tasks(tuple(names), folder, limit, manager)


def score_tasks(base: Base, tasks: Tasks, model: str) -> tuple[TaskScore, ...]:
    """Run the tasks on the base with the adapter that is attached to it now.

    The harness gets the model in memory, with torch's own attention, so the adapter need not be merged into the base.

    Raises:
        DataError: the data of a task is not on this machine and cannot be fetched.
    """
    with _quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        use_stock_attention(base.model)
        at_once = BATCH_REQUESTS if isolation_of(base.model).is_packed else 1  # other layers would read the padding
        # A copy, because the harness adds a padding token to the tokenizer.
        wrapped = HFLM(base.model, tokenizer=copy.deepcopy(base.tokenizer), batch_size=at_once)
        here = contextlib.chdir(tasks.folder) if tasks.folder is not None else contextlib.nullcontext()
        try:
            with here, autocast(base.model):
                results = simple_evaluate(
                    wrapped,
                    tasks=list(tasks.names),
                    task_manager=tasks.manager,
                    limit=tasks.limit,
                    batch_size=at_once,
                    bootstrap_iters=0,
                    log_samples=False,
                )
        except OSError as error:
            raise DataError(
                "cannot run tasks",
                expected="their data in the cache or in --task-folder, or a network to fetch it",
                got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                where=", ".join(tasks.names),
                fix="Connect to the network once, or choose tasks whose data is on this machine.",
            ) from None
    return tuple(_scores(results, model))


def _scores(results: Mapping[str, Any], model: str) -> Iterator[TaskScore]:
    """Every number of every task. "acc,none" becomes `acc`; other filters stay in the metric's name."""
    for task, values in results["results"].items():
        num_samples = results.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in values.items():
            metric, _, how = key.partition(",")
            if metric.endswith(STDERR) or not how or type(value) not in (int, float):
                continue
            stderr = values.get(f"{metric}{STDERR},{how}")
            name = metric if how == "none" else key
            yield TaskScore(
                model, task, name, float(value), float(stderr) if type(stderr) is float else None, num_samples
            )


def _manager(folder: str | None, *, include_defaults: bool) -> Any:
    with _quiet():
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise _unusable(
                "lm-evaluation-harness (pip install 'cogen-ai[eval]')",
                str(error),
                "Install it, or run without --tasks.",
            ) from None
        return TaskManager(include_path=folder, include_defaults=include_defaults)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of the harness and its libraries about things that are done on purpose."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _unusable(expected: str, got: str, fix: str, where: str = "--tasks") -> ConfigError:
    return ConfigError("cannot run tasks", expected=expected, got=got, where=where, fix=fix)
