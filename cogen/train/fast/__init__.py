"""Training on the CPU with fewer passes over memory and cheaper products; see docs/training.md."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

NUMBA_CACHE = "NUMBA_CACHE_DIR"


def choose_kernel_cache() -> None:
    """Name the folder where numba keeps compiled kernels, unless `$NUMBA_CACHE_DIR` does; call before numba is imported.

    It would take the package's own folder or `~/.cache`, and refuse to import a kernel where neither can be written:
    in a container with a read-only root, or under systemd's ProtectSystem. Where not even cogen's cache can be
    written, it is a folder of this process's own, and every start compiles anew.
    """
    from cogen.base import cache_folder

    if NUMBA_CACHE not in os.environ:
        folder = cache_folder() / "numba"
        os.environ[NUMBA_CACHE] = str(folder) if _is_own(folder) else _passing_folder()


def _is_own(folder: Path) -> bool:
    """Whether this user alone can fill it: what numba keeps is unpickled, so another's is not to be trusted."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            about = folder.stat()
    except OSError:
        return False
    return not hasattr(os, "geteuid") or (about.st_uid == os.geteuid() and not about.st_mode & 0o022)


def _passing_folder() -> str:
    import atexit
    import shutil

    folder = tempfile.mkdtemp(prefix="cogen-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


choose_kernel_cache()  # at import, for whichever module of this package comes first: numba reads it when it is imported
