"""The files of a corpus in a fixed order, each once; links are followed only to places outside the corpus."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cogen.data.document import Skipped, bad_data, printable
from cogen.data.formats import COMPRESSED_SUFFIXES, SUFFIXES, is_readable, split_suffix

HUB = "hf://datasets/"
# Kinds of files, as MIME types name them, whose loss is no loss of text; pictures of text are PDFs.
WITHOUT_TEXT = ("image", "audio", "video", "font")


@dataclass(frozen=True)
class Found:
    """A file to be read, and its path inside the corpus."""

    path: Path
    name: str


def corpus_root(path: str | Path) -> Path:
    """The file or folder that `path` names; a dataset on the hub is fetched first.

    Raises:
        DataError: no such path, no permission, or a dataset that cannot be fetched.
    """
    if isinstance(path, str) and path.startswith(HUB):
        return _fetched(path)
    try:
        root = Path(path).expanduser()
        there = root.exists()
    except (OSError, RuntimeError) as error:  # forbidden, too long a name; no such user's home
        raise bad_data(path, "a file or folder", _why(error), "Check the path and its permissions.") from None
    if not there:
        raise bad_data(root, "a file or folder", "no such path", "Check the path.")
    return root


def walk(root: Path) -> Iterator[Found | Skipped]:
    """Files below `root` with a reader, by sorted name; skipped ones with their reason; errors for unreadable folders.

    Hidden files are ignored. A link is followed unless it leads below `root`, which is read anyway, or to a place that
    was already read.
    """
    if root.is_file():
        yield _checked(root, root.name)
    else:
        yield from _walk_folder(root, "", root, set())


def _walk_folder(folder: Path, prefix: str, root: Path, linked: set[str]) -> Iterator[Found | Skipped]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        yield Skipped.of(bad_data(folder, "a readable folder", _why(error), "Check its permissions."), 0)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path, name = folder / entry.name, prefix + entry.name
        if entry.is_symlink() and (reason := _needless(path, root, linked)):
            yield Skipped(printable(path), reason, is_loss="leads nowhere" in reason or "may not" in reason)
        else:
            yield from _entry(entry, path, name, root, linked)


def _entry(entry: os.DirEntry[str], path: Path, name: str, root: Path, linked: set[str]) -> Iterator[Found | Skipped]:
    try:  # asks the folder's own list first: a folder may be readable and what is in it not to be looked at
        is_dir, is_file = entry.is_dir(), entry.is_file()
    except OSError as error:
        fix = "Check the permissions of its folder."
        yield Skipped.of(bad_data(path, "a readable file or folder", _why(error), fix), 0)
        return
    if is_dir:
        yield from _walk_folder(path, name + "/", root, linked)
    else:
        yield _checked(path, name) if is_file else Skipped(printable(path), "it is no file", is_loss=False)


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _needless(link: Path, root: Path, linked: set[str]) -> str:
    """Why a link is not followed; empty if it is."""
    try:
        target = link.resolve(strict=True)
    except PermissionError:
        return "it is a link into a folder that may not be entered"
    except (OSError, RuntimeError):
        return "it is a link that leads nowhere"
    home = root.resolve()
    if home.is_relative_to(target):
        return "it is a link to a folder that it lies in"
    if target.is_relative_to(home) and not any(p.startswith(".") for p in target.relative_to(home).parts):
        return "it is a link to what is read in its own place"
    if str(target) in linked:
        return "it is a link to what was read already"
    linked.add(str(target))
    return ""


def _checked(path: Path, name: str) -> Found | Skipped:
    if is_readable(path.name):
        return Found(path, name)
    _, suffix, compression = split_suffix(path.name)
    known = f"one of {', '.join(SUFFIXES)}, alone or with {' or '.join(COMPRESSED_SUFFIXES)}"
    reason = f"{printable(suffix + compression) or 'no suffix'} is not {known}"
    kind = (mimetypes.guess_type("a" + suffix)[0] or "").partition("/")[0]
    return Skipped(printable(path), reason, path.stat().st_size, is_loss=kind not in WITHOUT_TEXT)


def _fetched(address: str) -> Path:
    """`hf://datasets/OWNER/NAME[@REVISION][/PATH]` as a folder or file of the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    parts = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", address.removeprefix(HUB))
    if parts is None:
        raise bad_data(address, f"{HUB}OWNER/NAME[@REVISION][/PATH]", "another form", "Correct the address.")
    dataset, revision, inside = parts[1], parts[2], (parts[3] or "").strip("/")
    endings = [s + c for s in SUFFIXES for c in ("", *COMPRESSED_SUFFIXES)]
    wanted = [inside] if inside and is_readable(inside) else [f"{inside}/*{e}" if inside else f"*{e}" for e in endings]
    try:
        got = snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=wanted)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        fix = "Check the address, connect (log in to the hub for a gated dataset), or name a local folder."
        raise bad_data(address, "a dataset in the hub's cache, or a network", reason, fix) from None
    root = Path(got) / inside
    if not root.exists():
        raise bad_data(address, f"{inside or 'files'} in the dataset", "nothing there", "Check the path.")
    return root
