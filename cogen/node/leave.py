"""Leaving a federation for good: what is removed of a member's folder, and what stays as the domain's own record.

The secrets go first, so that nobody speaks for the domain any more, then what was made of its text. Everything is found anew
at each call, so a removal that was cut off is finished by the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cogen.data.prepare import common_cache, folder_bytes, prepared_from, remove_dead_links
from cogen.errors import ConfigError, RunError
from cogen.node.domain_settings import own_settings
from cogen.node.home import NodeHome


@dataclass(frozen=True)
class Part:
    """Files and folders that are removed together: what they are, and where."""

    what: str
    paths: tuple[Path, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        return sum(folder_bytes(p) if p.is_dir() else p.lstat().st_size for p in self.paths)


def record_of(home: NodeHome) -> list[Path]:
    """What stays: the receipts of what was sent, what counted for its limits, and under which settings. `member.toml` is last."""
    return [home.receipts, home.usage, home.work, home.policy, home.settings, home.member]


def parts_of(home: NodeHome, *, everything: bool = False) -> list[Part]:
    """What leaving removes, in order; only what is there.

    Args:
        everything: the domain's record, too.
    Raises:
        RunError: it is no member's folder.
        ConfigError: the corpus lies in the folder.
    """
    _require_home(home)
    secrets = (home.key, home.public_key, home.order, home.enrolled, home.ca, home.superexec_secret, home.node_config)
    programs = (home.socket, home.launcher_socket, home.flower, home.programs, home.logs)
    wanted = {
        "keys and secrets": secrets,
        "prepared text": (home.prepared, *_in_common_cache(home)),
        "optimizer states, kept replies, training logs": (home.runs,),
        "programs and their logs": programs,
        **({"receipts, counts and settings": record_of(home)} if everything else {}),
    }
    found = [Part(what, tuple(p for path in paths for p in _there(path))) for what, paths in wanted.items()]
    return [part for part in found if part.paths]


def remove(home: NodeHome, parts: list[Part]) -> None:
    """Remove the parts, and the folder if nothing is left in it.

    Raises:
        RunError: something cannot be removed.
    """
    for path in (path for part in parts for path in part.paths):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            fix = "Mend its permissions and run the same command again."
            got = error.strerror or str(error)
            raise RunError("cannot leave", expected="a file to remove", got=got, where=str(path), fix=fix) from None
    remove_dead_links(common_cache())
    if {path.name for path in home.path.iterdir()} <= {home.lock.name}:
        home.lock.unlink(missing_ok=True)
        home.path.rmdir()


def _there(path: Path) -> Iterator[Path]:
    """The path, and what a killed process left of a file that it was writing in its place."""
    yield from (p for p in (path, *path.parent.glob(f".{path.name}.*")) if p.exists() or p.is_symlink())


def _in_common_cache(home: NodeHome) -> list[Path]:
    """What other commands of this user prepared from the domain's corpora."""
    if not home.member.is_file():
        return []
    mix = own_settings(home).mix
    corpora = [home.read_member().data, *filter(None, (mix.replay, mix.annealing))]
    paths = [Path(name).expanduser() for name in corpora if not name.startswith("hf://")]
    return [folder for path in paths for folder in prepared_from(path, common_cache())]


def _require_home(home: NodeHome) -> None:
    """Refuse a folder that `cogen join` and `cogen doctor` did not make, before anything of it is called ours."""
    if home.member.is_file():
        data = home.read_member().data
        try:
            home.require_apart(data)
        except ConfigError:
            fix = "Move the corpus elsewhere first."
            expected = "a corpus outside the member's folder"
            raise ConfigError("cannot leave", expected=expected, got=data, where=str(home.path), fix=fix) from None
        return
    is_ours = home.path.is_dir() and home.programs.is_dir() and not home.others()
    if not is_ours:
        got = "another folder" if home.path.is_dir() else "no folder"
        fix = "Name the member's folder with --folder."
        raise RunError("no member here", expected="a folder of cogen join", got=got, where=str(home.path), fix=fix)
