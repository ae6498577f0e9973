"""Flower's API at a Unix socket: real uvicorn, Flower's own client and its own executor, each with its patch."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from flwr.proto.runtime_pb2 import PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor import subprocess_executor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from cogen.flower.api_socket import ADDRESS, api_socket, listens
from cogen.flower.patches import apply
from cogen.flower.patches.local import TOKEN_VARIABLE
from tests.waiting import wait_until


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches of this module, for a test."""
    for owner, name in ((uvicorn.Server, "run"), (ProtobufClient, "__init__"), (subprocess_executor, "subprocess")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    apply("api_listens_at_socket", "api_asked_at_socket", "superexec_hides_token")


@contextmanager
def api(home: Path, asked: list[str]) -> Iterator[None]:
    """A server at the socket in `home` that notes what it is asked, and answers with empty protobufs."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        headers = [(b"content-type", b"application/protobuf")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started and listens(home))
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20.0)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["home", "long" * 30])
def test_client_and_server_meet_at_the_socket(
    name: str, patched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at a path that is too long for an address, and where a proxy is set. Red: a port, or a socket for all."""
    home, asked = tmp_path / name, list[str]()
    home.mkdir()
    monkeypatch.setenv("FLWR_HOME", str(home))
    for variable in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert not listens(home)
    with api(home, asked):
        assert api_socket(home).stat().st_mode & 0o777 == 0o600
        client = RuntimeHttpClient.from_server_address(ADDRESS, insecure=True, root_certificates=None, interceptors=[])
        for _ in range(2):
            client.PullTaskInput(PullTaskInputRequest())
        client.close()
    assert asked == ["/v1/runtime/pull-task-input"] * 2
    assert not listens(home)


def test_without_the_patch_nobody_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may listen at the port that stands for the socket."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    client = RuntimeHttpClient.from_server_address(ADDRESS, insecure=True, root_certificates=None, interceptors=[])
    with pytest.raises(httpx.ConnectError):
        client.PullTaskInput(PullTaskInputRequest())


def test_other_addresses_are_asked_as_before(patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SuperNode's own client asks the coordinator. Red: all of Flower's clients at the socket."""
    monkeypatch.delenv("FLWR_HOME", raising=False)  # a socket would be looked for there
    ProtobufClient("http://localhost:9443").close()


def test_a_program_gets_its_token_in_its_environment_alone(
    patched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: Flower's own way, in the command line."""
    program, said = tmp_path / "flwr-clientapp", tmp_path / "said"
    code = "import json, os, sys; json.dump([sys.argv[2:], os.environ[sys.argv[1]]], open('said.new', 'w'))"
    program.write_text(
        f'#!/bin/sh\ncd {tmp_path}\n{sys.executable} -c "{code}" {TOKEN_VARIABLE} $@\nmv said.new said\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    spec = ExecutionSpec(
        task_type=TaskType.CLIENT_APP,
        runtime_api_address=ADDRESS,
        token="secret",
        insecure=True,
        root_certificates_path=None,
        runtime_dependency_install=False,
        parent_pid=None,
        suppress_output=False,
        task_id=1,
    )
    subprocess_executor.SubprocessExecutor().launch(spec)
    assert wait_until(said.is_file, 60.0)
    assert json.loads(said.read_text()) == [["--runtime-api-address", ADDRESS, "--insecure"], "secret"]
