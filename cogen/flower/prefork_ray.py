"""What a simulation needs before it can ask its first client, done while nobody has asked for it yet: app, Ray, actors.

Flower starts Ray once it has a run, and its actors once Ray is there; each imports the app when its first message comes.
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

SERVER_APP, CLIENT_APP = "server.server_app", "clients.client_app"
SHORT_SECONDS = 0.0001  # Ray's start is many short steps, each of which would wait for a turn beside the imports
BACKEND, ACTOR = "flwr.server.superlink.fleet.vce.backend.raybackend", "ClientAppActor"


def get_ready(num_cpus: int, cpus_each: int) -> None:
    """Ray and its actors, and while their processes start, the app.

    Args:
        num_cpus: that Ray has in all.
        cpus_each: that each actor has.
    """
    backend, interval = _backend(), sys.getswitchinterval()
    sys.setswitchinterval(SHORT_SECONDS)
    app = threading.Thread(target=_import_app)
    app.start()
    if backend is not None:
        _start_ray(backend, num_cpus, cpus_each)
    app.join()
    sys.setswitchinterval(interval)


def _backend() -> Any:
    """Flower's backend; None where it has another form, and must do it all in its own time."""
    try:
        backend = importlib.import_module(BACKEND)
        if hasattr(backend, ACTOR) and "is_initialized" in backend.RayBackend.init_ray.__code__.co_names:
            return backend
    except Exception:  # noqa: BLE001 - Flower imports it again where its errors are told
        log_error()
    return None


def _import_app() -> None:
    """The installed app, which is the one that Flower will be sent; what is wrong with it Flower will say."""
    try:
        for name in (SERVER_APP, CLIENT_APP):
            importlib.import_module(name)
    except Exception:  # noqa: BLE001 - it is imported again where its errors are told
        for name in (SERVER_APP, CLIENT_APP):
            sys.modules.pop(name, None)


def _start_ray(backend: Any, num_cpus: int, cpus_each: int) -> None:
    """Start Ray as Flower's backend would, which leaves one alone that is there, and the actors that it will ask for."""
    try:
        import ray

        # Flower would send its sys.path as a runtime environment, for which Ray keeps its workers waiting.
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        ray.init(num_cpus=num_cpus, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=True)
        # By name, an actor's class comes with all of Flower's server; by value, with no more than the app needs.
        by_value: Any = ray.cloudpickle.register_pickle_by_value
        by_value(importlib.import_module("flwr.simulation.ray_transport.ray_actor"))
        wanted, actor = {"num_cpus": cpus_each}, getattr(backend, ACTOR)
        made = [actor.options(**wanted).remote(import_client_app) for _ in range(num_cpus // cpus_each)]
        setattr(backend, ACTOR, EarlyActors(actor, wanted, made))
    except Exception:  # noqa: BLE001 - Flower starts what is missing in its own way, and tells what is wrong
        log_error()


def import_client_app() -> None:
    """In an actor, before its first message."""
    importlib.import_module(CLIENT_APP)


@dataclass(frozen=True)
class EarlyActors:
    """Stands for the class of Flower's actors: hands out those that are made, then makes more.

    Args:
        kind: Flower's own class.
        resources: of those that are made.
    """

    kind: Any
    resources: Mapping[str, float]
    made: list[Any]

    def options(self, **resources: Any) -> EarlyActors | Any:
        """As of Flower's class; other resources need other actors, in place of these."""
        if {k: v for k, v in resources.items() if v} == self.resources:
            return self
        self.give_up()
        return self.kind.options(**resources)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """An actor; with arguments of Flower's, one of its own making."""
        if self.made and not args and not kwargs:
            return self.made.pop()
        return self.kind.options(**self.resources).remote(*args, **kwargs)

    def give_up(self) -> None:
        """End those that nobody has taken, or they would keep their cores."""
        import ray

        while self.made:
            ray.kill(self.made.pop())
