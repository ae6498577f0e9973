"""The Flower app at a domain: bundles of `flwr build`, the preforked process, and the programs in PATH."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from flwr.supernode.runtime import run_clientapp

from cogen.errors import FederationError
from cogen.flower.bundle import HOME_VARIABLE, OtherApp, build_app, require_app
from cogen.flower.node_programs import write_task_programs
from cogen.flower.patches import apply
from cogen.flower.patches.domain import APP_VARIABLE
from cogen.node.home import NodeHome
from cogen.runs import read_lines
from cogen.shipped_files import shipped_root


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return build_app(shipped_root())


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def unpack(bundle: bytes, home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], object]:
    """Flower's unpacking, with the check for the installed app, into a FLWR_HOME for this test."""
    monkeypatch.setenv("FLWR_HOME", str(home.flower))
    monkeypatch.setenv(HOME_VARIABLE, str(home.path))
    monkeypatch.setenv(APP_VARIABLE, hashlib.sha256(bundle).hexdigest())
    monkeypatch.setattr(run_clientapp, "install_from_fab", run_clientapp.install_from_fab)  # put back afterwards
    apply("clientapp_check_app")
    return lambda content: run_clientapp.install_from_fab(content, skip_prompt=True)


def altered(bundle: bytes) -> bytes:
    """The app with one more line in its ClientApp, packed as a bundle again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, text + b"\nprint('mine')\n" if name == "clients/client_app.py" else text)
    return out.getvalue()


def test_the_installed_app_is_unpacked(unpack: Callable[[bytes], object], bundle: bytes, home: NodeHome) -> None:
    unpack(bundle)
    assert len(list(home.flower.glob("apps/*/clients/client_app.py"))) == 1
    assert not home.receipts.exists()


def test_another_app_is_refused_before_anything_is_unpacked(
    unpack: Callable[[bytes], object], bundle: bytes, home: NodeHome
) -> None:
    """Red: no check, and Flower complains of the manifest after it has unpacked; a check after the unpacking."""
    other = altered(bundle)
    with pytest.raises(OtherApp) as refused:
        unpack(other)
    assert all(hashlib.sha256(b).hexdigest() in str(refused.value) for b in (bundle, other))
    assert not (home.flower / "apps").exists()
    (line,) = read_lines(home.receipts)
    assert line["error"] == f"{type(refused.value)}:<'{refused.value}'>"
    assert str(home.path) not in line["error"]


@pytest.mark.parametrize("content", [b"", Path("/etc/hostname"), None])
def test_what_is_no_bundle_is_refused(unpack: Callable[[object], object], content: object) -> None:
    with pytest.raises(OtherApp):
        unpack(content)


def test_no_hash_allows_no_app(bundle: bytes) -> None:
    with pytest.raises(OtherApp):
        require_app(bundle, "")


def test_a_full_disk_is_not_described_to_the_coordinator(
    unpack: Callable[[bytes], object], bundle: bytes, home: NodeHome
) -> None:
    """The place to unpack to is a file; Flower would send the path."""
    home.flower.rmdir()
    home.flower.write_text("")
    with pytest.raises(RuntimeError, match=r"the domain cannot unpack the app \(\w+\)") as failed:
        unpack(bundle)
    assert str(home.path) not in str(failed.value)


def test_it_does_not_run_where_the_place_to_check_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(run_clientapp, "install_from_fab")
    with pytest.raises(FederationError, match="another version of flwr"):
        apply("clientapp_check_app")


@pytest.fixture
def preforked(home: NodeHome) -> Iterator[subprocess.Popen[bytes]]:
    """The process that has imported Flower, listening."""
    command = [sys.executable, "-m", "cogen.flower.clientapp_process", "--serve", str(home.launcher_socket)]
    with open(home.logs / "clientapp.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while not home.launcher_socket.exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def start(home: NodeHome, *arguments: str, program: str = "flwr-clientapp") -> subprocess.CompletedProcess[str]:
    """A program of Flower's as a SuperNode starts it, found in PATH."""
    path = f"{write_task_programs(home)}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [program, *arguments]
    return subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_preforked_process_forks_for_each_message_and_hands_its_exit_code_on(
    home: NodeHome, preforked: subprocess.Popen[bytes]
) -> None:
    log = home.logs / "clientapp.log"
    first = start(home, "--help")
    assert (first.returncode, first.stdout) == (0, "")
    assert "Run a Flower ClientApp" in log.read_text()
    assert start(home, "--no-such-option").returncode == 2
    assert start(home, "--help").returncode == 0
    assert preforked.poll() is None


def test_what_runs_for_a_message_imports_no_torch() -> None:
    """It asks the trainer that has. Red: an import of torch at the top of a module that the ClientApp needs."""
    heavy = "{'torch', 'transformers', 'peft', 'numba'} & sys.modules.keys()"
    code = f"import sys, clients.client_app, cogen.flower.clientapp_process, cogen.flower.supernode_process; print({heavy} or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


def test_without_the_preforked_process_the_program_does_it_alone(home: NodeHome) -> None:
    done = start(home, "--help")
    assert done.returncode == 0, done.stderr
    assert "Run a Flower ClientApp" in done.stdout


def test_every_other_program_that_flower_knows_is_refused(home: NodeHome) -> None:
    """A coordinator may call a message a task of another kind. Red: a kind that is not shadowed runs its bundle."""
    others = set(TASK_TYPE_TO_COMMAND.values()) - {"flwr-clientapp"}
    assert "flwr-agentapp" in others
    for program in others:
        done = start(home, "--help", program=program)
        assert (done.returncode, done.stdout) == (1, ""), program
        assert "refused" in done.stderr
