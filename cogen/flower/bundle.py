"""The Flower app of this installation as a bundle, and its sha256, which coordinator and domain compare before it runs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cogen.base_fetch import cache_folder
from cogen.errors import FederationError
from cogen.files import write_file
from cogen.flower.superlink import flower_environment
from cogen.node.home import NodeHome
from cogen.node.receipt import SentMessage, record
from cogen.shipped_files import app_files, shipped_app

HOME_VARIABLE = "COGEN_NODE_HOME"


class OtherApp(FederationError):
    """The coordinator sends another app than the installed one."""

    is_shareable = True


def require_app(bundle: Any, expected_sha256: str) -> None:
    """Refuse a bundle that is not the app of this sha256, and write a receipt of the refusal.

    Raises:
        OtherApp: another bundle, none at all, or no sha256 to compare with.
    """
    got = hashlib.sha256(bundle).hexdigest() if isinstance(bundle, bytes) else "no bundle"
    if got == expected_sha256 and expected_sha256:
        return
    error = OtherApp(
        "app refused by the domain",
        expected=f"sha256 {expected_sha256 or 'of an installed app'}",
        got=got,
        fix="The coordinator and this domain need the same version of cogen.",
    )
    if home := os.environ.get(HOME_VARIABLE):
        message = f"{type(error)}:<'{error}'>"  # the text that Flower sends
        record(NodeHome(home).receipts, "", 0, "app", SentMessage(error=message))
    raise error


def installed_app_sha256() -> str:
    """sha256, in hex, of the bundle that Flower builds of the installed app; the same from a clone and from a wheel.

    Building takes two seconds, so the hash is cached until a file of the app changes.

    Raises:
        FederationError: Flower cannot build the app.
    """
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in app_files()]
    key = hashlib.sha256(json.dumps([version("flwr"), sys.version, files]).encode()).hexdigest()[:24]
    cached = cache_folder() / "apps" / key
    if cached.is_file():
        return cached.read_text("utf-8").strip()
    with shipped_app() as app:
        digest = hashlib.sha256(build_app(app)).hexdigest()
    write_file(cached, f"{digest}\n".encode())
    return digest


def build_app(root: Path) -> bytes:
    """The bundle that Flower builds of the app in `root`.

    Raises:
        FederationError: Flower cannot build it.
    """
    with tempfile.TemporaryDirectory(prefix="cogen-app-") as scratch:
        flwr = Path(sys.executable).with_name("flwr")
        done = subprocess.run(
            [str(flwr), "build", "--app", str(root)],
            cwd=scratch,
            env=flower_environment(Path(scratch) / "home"),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        built = list(Path(scratch).glob("*.fab"))
        if done.returncode == 0 and len(built) == 1:
            return built[0].read_bytes()
    last = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
    raise FederationError(
        "cannot build the Flower app",
        expected="one bundle from flwr build",
        got=last[-1],
        where=str(root),
        fix="Install cogen-ai again; its files are incomplete.",
    )
