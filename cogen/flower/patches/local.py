"""Patches that keep Flower's programs on a machine among themselves: a Unix socket for a port, no token in the process list."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from cogen.flower.api_socket import ADDRESS, api_socket
from cogen.flower.patches.patch import MARK, Patch, mark, takes, uses
from cogen.node.channel import lasting_address, listen_at

TOKEN_VARIABLE, TOKEN_OPTION = "COGEN_TASK_TOKEN", "--token"


def listen_at_socket(run: Callable[..., None]) -> Callable[..., None]:
    """uvicorn's method to run a server; it listens at this process's API socket, and at no host and port."""

    def running(self: Any, sockets: Any = None) -> None:
        run(self, sockets or [listen_at(api_socket())])

    return mark(running)  # type: ignore[no-any-return]


def ask_at_socket(init: Callable[..., None]) -> Callable[..., None]:
    """The start of Flower's HTTP client; for the address that stands for the API socket, it connects there."""
    import httpx

    def made(self: Any, base_url: str, *, verify: Any = True, timeout: float = 30.0, **options: Any) -> None:
        init(self, base_url, verify=verify, timeout=timeout, **options)
        if base_url.partition("://")[2] == ADDRESS:
            self._client.close()
            transport = httpx.HTTPTransport(verify=verify, uds=lasting_address(api_socket()))
            self._client = httpx.Client(transport=transport, timeout=timeout, trust_env=False)

    return mark(made)  # type: ignore[no-any-return]


class TokenInEnvironment:
    """The module `subprocess` for SuperExec; a program gets its token where only its own user can read it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, args: Sequence[str], **options: Any) -> Any:  # noqa: N802 - as in `subprocess`
        """Start the program. A ValueError where there is no token: then Flower has changed how it hands it on."""
        at = args.index(TOKEN_OPTION)
        environment = {**os.environ, TOKEN_VARIABLE: args[at + 1]}
        return subprocess.Popen([*args[:at], *args[at + 2 :]], env=environment, **options)


setattr(TokenInEnvironment, MARK, True)
EXECUTOR = "flwr.supercore.superexec.executor.subprocess_executor"

LOCAL_PATCHES = (
    Patch(
        "api_listens_at_socket",
        changes="The HTTP server of a SuperNode or SuperLink listens at a Unix socket that only its own user can open.",
        reason="Flower listens at a port of loopback: any account takes messages there, answers them, and submits runs.",
        versions=">=0.49,<1",
        places=("uvicorn.server:Server.run",),
        fits=lambda run: takes(run, "self", "sockets"),
        make=listen_at_socket,
    ),
    Patch(
        "api_asked_at_socket",
        changes="SuperExec, ClientApp, ServerApp and `flwr` ask at that socket, with no proxy between.",
        reason="Flower's HTTP client knows hosts and ports only, and takes a proxy from the environment even for loopback.",
        versions=">=1.41,<1.43",
        places=("flwr.supercore.protobuf.client:ProtobufClient.__init__", "httpx:HTTPTransport"),
        fits=lambda init, transport: (
            takes(init, "self", "base_url", "verify", "timeout")
            and uses(init, "_client")
            and takes(transport.__init__, "verify", "uds")
        ),
        make=lambda init, _: ask_at_socket(init),
    ),
    Patch(
        "superexec_hides_token",
        changes="SuperExec hands a task's token on in the environment of the program that it starts.",
        reason="Flower writes it into the command line, which every account of the machine can read.",
        versions=">=1.41,<1.43",
        places=(f"{EXECUTOR}:subprocess", f"{EXECUTOR}:SubprocessExecutor.launch"),
        fits=lambda found, launch: (
            found is subprocess and uses(launch, "Popen") and TOKEN_OPTION in launch.__code__.co_consts
        ),
        make=lambda *_: TokenInEnvironment(),
    ),
    Patch(
        "flwr_program",
        changes="Nothing here. `cogen.flower.flower_process` runs this entry point.",
        reason="`flwr` submits runs and registers nodes, and must reach the socket.",
        versions=">=1.41,<1.43",
        places=("flwr.cli.app:app",),
        fits=callable,
    ),
    Patch(
        "serverapp_program",
        changes="Nothing here. `cogen.flower.flower_process` runs this entry point.",
        reason="`flwr-serverapp` must reach the socket, and gets its token from the environment.",
        versions=">=1.41,<1.43",
        places=("flwr.superlink.cli:flwr_serverapp",),
        fits=callable,
    ),
)
