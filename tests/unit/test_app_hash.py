"""The app's hash: of the bundle that Flower builds, one for a clone and a wheel, another when a file changes."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from cogen.errors import FederationError
from cogen.flower import bundle as app_hash
from cogen.flower.bundle import build_app, installed_app_sha256
from cogen.shipped_files import shipped_app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return build_app(ROOT)


def test_hash_is_of_the_bundle_and_is_kept(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_app_sha256() == hashlib.sha256(bundle).hexdigest()
    names = set(zipfile.ZipFile(io.BytesIO(bundle)).namelist())
    assert {"pyproject.toml", "clients/client_app.py", "server/rounds.py"} <= names
    assert not any(name.startswith(("cogen/", "tests/")) for name in names)
    monkeypatch.setattr(app_hash, "build_app", lambda root: pytest.fail("built again"))
    assert installed_app_sha256() == hashlib.sha256(bundle).hexdigest()


def test_the_app_alone_is_built_wherever_it_lies(
    bundle: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: it lies in the temporary folder itself, of whose name Flower refuses the `_`."""
    (tmp_path / "a_b").mkdir()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *args, **kwargs: str(tmp_path / "a_b"))
    with shipped_app() as app:
        monkeypatch.undo()
        assert {p.name for p in app.iterdir()} == {"pyproject.toml", "clients", "server"}
        assert build_app(app) == bundle


def test_a_wheel_gives_what_a_clone_gives_and_a_changed_file_does_not(bundle: bytes, tmp_path: Path) -> None:
    """A wheel carries the app in `shipped/`, without the clone's other files."""
    shipped = tmp_path / "shipped"
    for part in ("clients", "server"):
        shutil.copytree(ROOT / part, shipped / part)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, shipped / name)
    assert build_app(shipped) == bundle
    with open(shipped / "clients" / "client_app.py", "a") as file:
        file.write("# another\n")
    assert build_app(shipped) != bundle


@pytest.mark.network
def test_the_wheel_itself_gives_what_the_clone_gives(bundle: bytes, tmp_path: Path) -> None:
    """Built as `pip install` builds it, with hatchling from the index where it is not at hand.

    Red: a file of the app that pyproject.toml's force-include omits, or one that only a wheel has.
    """
    isolated = [] if find_spec("hatchling") is None else ["--no-build-isolation"]
    wheel = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(tmp_path), *isolated]
    subprocess.run(wheel, check=True, capture_output=True, cwd=tmp_path)
    (built,) = tmp_path.glob("cogen_ai-*.whl")
    zipfile.ZipFile(built).extractall(tmp_path / "installed")
    shipped = tmp_path / "installed" / "cogen" / "shipped"
    assert (shipped / "pyproject.toml").is_file() and not (shipped / ".gitignore").exists()
    assert hashlib.sha256(build_app(shipped)).hexdigest() == hashlib.sha256(bundle).hexdigest()


def test_an_app_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    with pytest.raises(FederationError, match="expected one bundle from flwr build"):
        build_app(tmp_path / "app")
