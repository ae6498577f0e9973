"""The sha256 of the Flower app as this installation would send it: what both ends compare before they run it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from cogen.base_fetch import cache_folder
from cogen.errors import FederationError
from cogen.files import write_file
from cogen.flower.superlink import flower_environment
from cogen.shipped_files import app_files, shipped_app


def installed_app_sha256() -> str:
    """sha256, in hex, of the bundle that Flower builds of the installed app; the same from a clone and from a wheel.

    Building takes two seconds, so the answer is kept in the cache folder for as long as no file of the app changes.

    Raises:
        FederationError: Flower cannot build the app.
    """
    about = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in app_files()]
    key = hashlib.sha256(json.dumps([version("flwr"), sys.version, about]).encode()).hexdigest()[:24]
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
        FederationError: it cannot.
    """
    with tempfile.TemporaryDirectory(prefix="cogen-app-") as scratch:
        flwr = Path(sys.executable).with_name("flwr")
        done = subprocess.run(
            [str(flwr), "build", "--app", str(root)],
            cwd=scratch,
            env=flower_environment(Path(scratch) / "home"),
            capture_output=True,
            text=True,
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
        fix="Install cogen-ai again; its files are not whole.",
    )
