"""The folder where numba keeps compiled kernels. `kernels` calls this before it imports numba, which reads it then."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from cogen.base_fetch import cache_folder

NUMBA_CACHE = "NUMBA_CACHE_DIR"


def choose_kernel_cache() -> None:
    """Set `$NUMBA_CACHE_DIR`, unless the user has set it.

    By default numba takes the package's own folder or `~/.cache`, and fails if it can write to neither: in a
    container with a read-only root, or under systemd's ProtectSystem. If cogen's cache cannot be written either,
    this process gets a temporary folder, and every start compiles anew.
    """
    if NUMBA_CACHE not in os.environ:
        folder = cache_folder() / "numba"
        os.environ[NUMBA_CACHE] = str(folder) if _is_own(folder) else _temporary_folder()


def _is_own(folder: Path) -> bool:
    """Whether only this user can write to it: numba unpickles its cache, so another user's is not to be trusted."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            stat = folder.stat()
    except OSError:
        return False
    return not hasattr(os, "geteuid") or (stat.st_uid == os.geteuid() and not stat.st_mode & 0o022)


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="cogen-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
