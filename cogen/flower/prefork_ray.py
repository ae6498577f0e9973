"""What a simulation needs before it can ask its first client, done before there is a run: the app, Ray, its actors.

Flower starts Ray when it has a run, and actors when Ray is up. Each actor imports the app when its first message comes.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogen.errors import log_error
from cogen.flower.patches import find_or_log

SERVER_APP, CLIENT_APP = "server.server_app", "clients.client_app"
SWITCH_SECONDS = 0.0001  # Ray starts in many short steps; at Python's 5 ms each would wait for the imports


def get_ready(num_cpus: int, cpus_each: int) -> None:
    """Start Ray and its actors, and import the app while their processes start.

    Args:
        num_cpus: for Ray in all.
        cpus_each: for each actor.
    """
    found, interval = find_or_log("simulation_ray_actors"), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    app = threading.Thread(target=_import_app)
    app.start()
    if found is not None:
        _start_ray(*found, num_cpus=num_cpus, cpus_each=cpus_each)
    app.join()
    sys.setswitchinterval(interval)


def _import_app() -> None:
    """Import the installed app, which is the one that Flower will be sent."""
    try:
        for name in (SERVER_APP, CLIENT_APP):
            importlib.import_module(name)
    except Exception:  # noqa: BLE001 - Flower imports it again, and reports the error
        for name in (SERVER_APP, CLIENT_APP):
            sys.modules.pop(name, None)


def _start_ray(backend: Any, actor: Any, _: Any, actor_module: Any, *, num_cpus: int, cpus_each: int) -> None:
    """Start Ray as Flower's backend would, and the actors that it will ask for; the backend keeps a Ray that is up."""
    try:
        import ray

        # Flower would send its sys.path as a runtime environment, for which Ray keeps its workers waiting.
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        ray.init(num_cpus=num_cpus, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=True)
        # By name, an actor's class imports all of Flower's server; by value, only what the app needs.
        by_value: Any = ray.cloudpickle.register_pickle_by_value
        by_value(actor_module)
        resources = {"num_cpus": cpus_each}
        ready = [actor.options(**resources).remote(import_client_app) for _ in range(num_cpus // cpus_each)]
        backend.ClientAppActor = ReadyActors(actor, resources, ready)
    except Exception:  # noqa: BLE001 - Flower starts Ray again in its own way, and reports the error
        log_error()


def import_client_app() -> None:
    """Runs in an actor, before its first message."""
    importlib.import_module(CLIENT_APP)


@dataclass(frozen=True)
class ReadyActors:
    """Stands in for the class of Flower's actors: hands out those that are ready, then makes more.

    Args:
        kind: Flower's own class.
        resources: of the actors that are ready.
    """

    kind: Any
    resources: Mapping[str, float]
    ready: list[Any]

    def options(self, **resources: Any) -> ReadyActors | Any:
        """As of Flower's class. For other resources, the actors that are ready are ended."""
        if {k: v for k, v in resources.items() if v} == self.resources:
            return self
        self.end_unused()
        return self.kind.options(**resources)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """An actor that is ready; with arguments of Flower's, a new one."""
        if self.ready and not args and not kwargs:
            return self.ready.pop()
        return self.kind.options(**self.resources).remote(*args, **kwargs)

    def end_unused(self) -> None:
        """End the actors that nobody has taken; they would keep their cores."""
        import ray

        while self.ready:
            ray.kill(self.ready.pop())
