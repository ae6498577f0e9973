"""What the project ships beside its library: the Flower app, configs, seeds; in a clone or in a wheel."""

from __future__ import annotations

from pathlib import Path

from cogen.errors import ConfigError


def shipped_root() -> Path:
    """The folder with pyproject.toml, clients, server, configs and seeds."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


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
