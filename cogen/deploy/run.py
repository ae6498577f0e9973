"""`cogen run`: submit a run to the SuperLink of `cogen serve`, follow it, and stop it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cogen.base import describe_base
from cogen.config import RunConfig, load_config
from cogen.deploy.about import Serving, read_serving
from cogen.deploy.folder import FederationFolder
from cogen.deploy.members import read_members
from cogen.deploy.serve import check_settings
from cogen.errors import CogenError, ConfigError, FederationError
from cogen.evaluate.baselines import OnEvent
from cogen.flower.api_socket import READY_SECONDS
from cogen.flower.awaited import Awaited
from cogen.flower.bundle import installed_app_sha256
from cogen.flower.run_events import begin_run, follow_run, open_run
from cogen.flower.superlink_client import SuperLinkClient
from cogen.runs import RunFolder
from cogen.shipped_files import shipped_app, shipped_config

END_SECONDS = 5.0


def run_rounds(
    config: str | Path,
    folder: FederationFolder,
    *,
    overrides: Iterable[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> RunFolder:
    """Run the rounds of a federation on the nodes that have joined. The run folder is `runs/<name of the config>`.

    A run that is stopped by Ctrl-C can be resumed from its last complete round.

    Raises:
        CogenError: no `cogen serve` is running, the input is bad, or the run failed and can be resumed.
    """
    serving = read_serving(folder)
    source = shipped_config(str(config))
    run = folder.run(_plain_name(source.stem))
    settings = open_run(run, source, list(overrides), resume=resume, overwrite=overwrite, command="run")
    check_settings(settings)
    _require_members(folder, settings)
    _require_same_app(serving)
    show = on_event or (lambda event: None)
    superlink_client = SuperLinkClient(folder.flwr_home, folder.logs)
    with folder.run_lock():
        show({"event": "starting"})
        end_others(superlink_client, serving, show)
        seen = begin_run(run, settings, resume=resume, overwrite=overwrite)
        with shipped_app() as app:
            run_id = superlink_client.submit(app, run.path.name)
        try:
            follow_run(seen, show, folder.is_served, lambda: superlink_client.status(run_id), Awaited())
        except BaseException:
            with suppress(CogenError):  # the run may have ended by itself, or SuperLink may have failed
                end_others(superlink_client, serving)
            raise
    return run


def end_others(superlink_client: SuperLinkClient, serving: Serving, show: OnEvent = lambda event: None) -> None:
    """Stop every unfinished run, such as that of a killed `cogen run`, because a run folder has one writer.

    A server app learns that its run was stopped at its next heartbeat, up to half a minute later, so it is ended here.
    """
    import psutil

    _stop_runs(superlink_client, serving, show)
    apps = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(serving.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(word.endswith("flwr-serverapp") for word in process.cmdline()):
                    apps.append(process)
    for app in apps:
        with suppress(psutil.NoSuchProcess):
            app.terminate()
    for app in psutil.wait_procs(apps, timeout=END_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            app.kill()


def _stop_runs(superlink_client: SuperLinkClient, serving: Serving, show: OnEvent) -> None:
    """Stop runs through SuperLink. If it has ended, wait until `cogen serve` has started it again."""
    import psutil

    began = time.monotonic()
    while True:
        try:
            for run_id in superlink_client.unfinished():
                superlink_client.stop(run_id)
            return
        except FederationError:
            seconds = time.monotonic() - began
            if seconds > READY_SECONDS or not psutil.pid_exists(serving.pid):
                raise
            show({"event": "waiting", "text": "Flower's SuperLink, which does not answer", "seconds": seconds})
            time.sleep(1.0)


def _plain_name(name: str) -> str:
    """The name with only letters, digits, dots, dashes and underscores, because Flower gets it inside a setting."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "run"


def _require_same_app(serving: Serving) -> None:
    if serving.app_sha256 != installed_app_sha256():
        raise FederationError(
            "cannot run",
            expected=f"the app that the federation serves, {serving.app_sha256[:12]}",
            got="another version",
            fix="Start `cogen serve` again with this version; the domains need this version, too.",
        )


def _require_members(folder: FederationFolder, settings: RunConfig) -> None:
    """Raise unless enough domains of this config have joined, with its base."""
    joined_with, wanted = (describe_base(c.base.name).fingerprint for c in (load_config(folder.config), settings))
    if joined_with != wanted:
        raise ConfigError(
            "cannot run",
            expected="the base that the domains have",
            got=repr(settings.base.name),
            where=str(folder.config),
            fix="Use the config that the federation serves, or serve another folder with another base.",
        )
    joined = [d.name for d in settings.domains if d.name in read_members(folder.path)]
    if len(joined) < settings.min_valid_clients:
        missing = [d.name for d in settings.domains if d.name not in joined]
        raise FederationError(
            "cannot run",
            expected=f"at least {settings.min_valid_clients} of the {len(settings.domains)} domains to have joined",
            got=", ".join(joined) or "none",
            fix=f"Invite {', '.join(missing)} (`cogen invite`), or set federation.min_valid_clients.",
        )
