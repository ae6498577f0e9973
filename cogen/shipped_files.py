"""Files that ship with the library, in a clone or in a wheel: the Flower app, configs, seeds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogen.errors import ConfigError


def shipped_root() -> Path:
    """The folder with pyproject.toml, clients, server, configs and seeds."""
    package = Path(__file__).resolve().parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


def app_files() -> list[Path]:
    """What Flower's bundle of the app is made of, in order."""
    root = shipped_root()
    parts = (root / "pyproject.toml", *root.glob("clients/**/*.py"), *root.glob("server/**/*.py"))
    return sorted(p for p in parts if p.is_file())


@contextmanager
def shipped_app() -> Iterator[Path]:
    """A folder with the Flower app alone, for as long as the block runs.

    Flower looks at every file of the folder that it bundles: in a clone whose `.venv` has 80,000, that takes six
    seconds of seven. It also refuses a folder with `_` in its name, as temporary ones have at times.
    """
    with tempfile.TemporaryDirectory(prefix="cogen-app-") as place:
        app = Path(place) / "app"
        app.mkdir()
        for path in app_files():
            copy = app / path.relative_to(shipped_root())
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        yield app


def shipped_config(name: str) -> Path:
    """The file `name`, or the shipped config of that name.

    Raises:
        ConfigError: neither exists.
    """
    folder = shipped_root() / "configs"
    for path in (Path(name), folder / name, folder / f"{name}.toml"):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
    raise ConfigError(
        "no such config", expected=f"a TOML file, or one of {known}", got=repr(name), fix="Check the path."
    )
