"""The files of docs/deploy: commands that exist, folders that agree, and a volume for everything that is written."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from typer.main import get_command

from cogen.cli.app import app
from cogen.deploy.about import DEFAULT_PORT

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
SIDES = ("coordinator", "domain")
# Settings of a command that name what it reads.
READ = ("config", "invite", "data")


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command of cogen's and its settings, by the real parser."""
    group = get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    return words[0], command.make_context(words[0], list(words[1:])).params


def substituted(text: str) -> str:
    """`${NAME:-default}` as compose reads it where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def is_below(path: object, folders: list[str]) -> bool:
    return any(PurePosixPath(str(path)).is_relative_to(folder) for folder in folders)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(substituted((DEPLOY / "compose.yaml").read_text()))
    assert set(found["volumes"]) == set(SIDES)
    return found["services"]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, those of the stage that it is made from first."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            found[name] = list(found.get(source, []))
        elif word and word != "#" and not word.startswith("#"):
            found[name].append((word, rest))
    return found


def environment(side: str) -> dict[str, str]:
    words = [w for word, rest in stages()[side] if word == "ENV" for w in shlex.split(rest)]
    return dict(w.split("=", 1) for w in words)


@pytest.mark.parametrize("side", SIDES)
def test_a_service_runs_a_command_whose_paths_are_mounted(side: str, services: dict[str, dict[str, Any]]) -> None:
    """Red: an option that is gone, a file that is mounted elsewhere, a folder that cannot be written."""
    service = services[side]
    name, settings = parsed(shlex.split(service["command"]))
    assert name == {"coordinator": "serve", "domain": "join"}[side]
    mounts = [m.rsplit(":", 2) if m.endswith(":ro") else [*m.rsplit(":", 1), "rw"] for m in service["volumes"]]
    writable = [target for _, target, mode in mounts if mode == "rw"]
    (image,) = {rest for word, rest in stages()[side] if word == "VOLUME"}
    assert writable == [image]
    readable = {target for _, target, mode in mounts if mode == "ro"}
    given = {str(settings[key]) for key in READ if settings.get(key) is not None}
    assert given == readable
    work = [rest for word, rest in stages()[side] if word == "WORKDIR"][-1]
    assert is_below(PurePosixPath(work) / str(settings["folder"]), writable)


@pytest.mark.parametrize("side", SIDES)
def test_a_read_only_root_has_a_place_for_all_that_is_written(side: str, services: dict[str, dict[str, Any]]) -> None:
    """Caches of models and kernels, the home, temporary files. Red: a cache in a home that is part of the image."""
    service, variables = services[side], environment(side)
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    for path in (variables["COGEN_CACHE"], variables["HF_HOME"]):
        assert is_below(path, ["/var/lib/cogen"])
    (user,) = [rest for word, rest in stages()[side] if word == "RUN" and "useradd" in rest]
    assert "--home-dir /var/lib/cogen " in user and "--owner cogen --mode 0700 /var/lib/cogen" in user
    assert ("USER", "cogen") in stages()[side]


def test_there_is_an_image_for_each_side(services: dict[str, dict[str, Any]]) -> None:
    """The one that the network reaches has no readers of documents; the other opens no port. Red: one image for both."""
    for side in SIDES:
        build = services[side]["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert build["target"] == side and services[side]["image"] == f"cogen-{side}"
        (program,) = [rest for word, rest in stages()[side] if word == "CMD"]
        parsed(yaml.safe_load(program))
    copied = {side: [rest for word, rest in stages()[side] if word == "COPY"][-1] for side in SIDES}
    installed = {side: str(stages()[copied[side].split()[0].removeprefix("--from=")]) for side in SIDES}
    assert {side: "[formats]" in text for side, text in installed.items()} == {"coordinator": False, "domain": True}
    assert services["coordinator"]["ports"] == [f"{DEFAULT_PORT}:{DEFAULT_PORT}"]
    assert ("EXPOSE", str(DEFAULT_PORT)) in stages()["coordinator"]
    assert "ports" not in services["domain"] and "EXPOSE" not in dict(stages()["domain"])


@pytest.mark.parametrize("side", SIDES)
def test_a_unit_starts_a_command_that_can_write_what_it_must(side: str) -> None:
    """Red: an option that is gone, a folder outside the state directory, a setting that forbids compiled kernels."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / f"cogen-{side}.service")
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[0] == "/opt/cogen/bin/cogen"
    _, settings = parsed(words[1:])
    assert service["ProtectSystem"] == "strict" and service["ProtectHome"] in ("yes", "read-only")
    state = f"/var/lib/{service['StateDirectory']}"
    variables = dict(w.split("=", 1) for w in shlex.split(service["Environment"]))
    written = [variables["COGEN_CACHE"], variables["HF_HOME"], service["WorkingDirectory"]]
    written.append(str(PurePosixPath(service["WorkingDirectory"]) / str(settings["folder"])))
    assert all(is_below(path, [state]) for path in written), written
    assert service["PrivateTmp"] == "yes"
    assert "MemoryDenyWriteExecute" not in service  # numba writes code and runs it
    text = (DEPLOY / f"cogen-{side}.service").read_text()
    for line in re.findall(r"^#\s+sudo -u cogen /opt/cogen/bin/cogen (.*)$", text, re.M):
        parsed(shlex.split(line))
    assert f"--home-dir {state} " in text
