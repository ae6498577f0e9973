"""Every patch of Flower's internals against the installed Flower: its place exists, and a missing place is one line of error."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from cogen.errors import FederationError
from cogen.flower.patches import PATCHES, apply, apply_or_exit, find_or_log, require
from cogen.flower.patches.patch import Patch, is_patched, look_up


def owner_of(place: str) -> tuple[Any, str]:
    """The module or class in which the place lies, and the object's name there."""
    module, _, path = place.partition(":")
    if not path:
        package, _, name = module.rpartition(".")
        return look_up(package), name
    *parents, name = path.split(".")
    return look_up(":".join([module, ".".join(parents)]) if parents else module), name


def remove(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the object away, from base classes too; what every object has stays."""
    owner, name = owner_of(place)
    if ":" not in place:
        monkeypatch.setitem(sys.modules, place, None)
        return
    for holder in inspect.getmro(owner) if inspect.isclass(owner) else (owner,):
        if name in vars(holder) and holder is not object:
            monkeypatch.delattr(holder, name)


REPLACING = sorted(p.name for p in PATCHES.values() if p.make is not None)
WITH_A_FORM = sorted(p.name for p in PATCHES.values() if ":" in p.places[0])  # the form of a module is not checked


@pytest.fixture(params=sorted(PATCHES))
def patch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """One entry; its first place is put back afterwards."""
    found = PATCHES[request.param]
    if found.make is not None:
        owner, name = owner_of(found.places[0])
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return found


def test_an_entry_says_what_it_changes_and_why(patch: Patch) -> None:
    assert PATCHES[patch.name] is patch
    assert all(text.endswith(".") and "\n" not in text for text in (patch.changes, patch.reason))


def test_its_place_is_in_the_installed_version(patch: Patch) -> None:
    """Red when the library changes there, and when its version is raised and nobody has looked at the patch."""
    assert len(require(patch.name)) == len(patch.places)
    assert version(patch.library) in SpecifierSet(patch.versions)


def test_a_missing_place_is_one_line(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its places in turn. Red: a patch that silently does nothing."""
    require(patch.name)
    for place in patch.places:
        with monkeypatch.context() as gone:
            remove(place, gone)
            with pytest.raises(FederationError) as raised:
                apply(patch.name)
            line = str(raised.value)
            assert "\n" not in line and "another version of" in line and patch.name in line and place in line
            with pytest.raises(SystemExit) as ended:
                apply_or_exit(patch.name)
            assert ended.value.code == line


@pytest.mark.parametrize("patch", WITH_A_FORM, indirect=True)
def test_a_place_of_another_form_is_one_line(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = owner_of(patch.places[0])
    monkeypatch.setattr(owner, name, None)
    with pytest.raises(FederationError, match="its form has changed"):
        apply(patch.name)


@pytest.mark.parametrize("patch", REPLACING, indirect=True)
def test_it_replaces_its_place_once(patch: Patch) -> None:
    """Red: a second start in the same process that wraps the replacement again."""
    before = look_up(patch.places[0])
    was_patched = is_patched(before)
    apply(patch.name)
    once = look_up(patch.places[0])
    apply(patch.name)
    assert look_up(patch.places[0]) == once
    # A test with a server app in this process has patched too; a logger stays the same object.
    assert once is not before or was_patched or patch.name == "supernode_short_log"


def test_only_a_faster_start_may_fall_back(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so in one line."""
    assert {p.name for p in PATCHES.values() if p.has_fallback} == {
        "simulation_ray_actors",
        "simulation_program",
        "superlink_programs",
    }
    assert find_or_log("simulation_program") == require("simulation_program")
    assert capsys.readouterr().err == ""
    monkeypatch.delattr("flwr.simulation.app.flwr_simulation")
    assert find_or_log("simulation_program") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a slower start: cannot patch flwr (simulation_program)")
    with pytest.raises(AssertionError):
        find_or_log("clientapp_check_app")


@pytest.mark.parametrize(
    ("program", "place"),
    [
        ("cogen.flower.supernode_process", "flwr.supernode.fleet_http_connection.make_simple_http_retry_invoker"),
        ("cogen.flower.superlink_process", "flwr.supercore.sql_mixin.SQLITE_PRAGMAS"),
        ("cogen.flower.clientapp_process", "flwr.supernode.runtime.run_clientapp.install_from_fab"),
    ],
)
def test_a_program_ends_with_that_line(program: str, place: str) -> None:
    """A Flower without the place. Red: a traceback, or a program that goes on without the patch."""
    module, _, name = place.rpartition(".")
    code = f"import sys, {module}; del {module}.{name}; sys.argv = ['it', '--help']; from {program} import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("cannot patch flwr (") and place.replace(f".{name}", f":{name}") in line


def test_what_is_marked_is_left_alone() -> None:
    assert not is_patched(time)
