"""The folder for kernels that numba has compiled, also for a service without a home or a writable package folder."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DROP_FROM_BOUNDING_SET, DAC_OVERRIDE = (
    24,
    1,
)  # prctl's PR_CAPBSET_DROP, and the right to write in spite of a file's mode
CALL = """
import os
import numpy as np
from cogen.train.fast import kernels
x = np.full((2, 8), 3.0, np.float32)
out, inverse = np.empty_like(x), np.empty(2, np.float32)
kernels.rms_norm(x, np.ones(8, np.float32), np.float32(0.0), out, inverse)
print(out.sum(), os.environ["NUMBA_CACHE_DIR"])
"""


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """The package and a home, in which nobody may write."""
    place = tmp_path / "read-only"
    shutil.copytree(ROOT / "cogen", place / "installed" / "cogen", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "home").mkdir()
    folders = [p for p in place.rglob("*") if p.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    yield place
    for folder in folders:
        folder.chmod(0o755)


def heed_modes() -> None:
    """In the child, before Python starts: without the right by which root may write everywhere."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, DAC_OVERRIDE, 0, 0, 0):
        os._exit(77)


def call_a_kernel(place: Path, cache: Path) -> tuple[float, Path]:
    """Its result, and where numba keeps it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "PYTHON"))}
    more = {"HOME": str(place / "home"), "COGEN_CACHE": str(cache), "PYTHONPATH": str(place / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env={**kept, **more},
        cwd=place,
        preexec_fn=heed_modes,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("root cannot give up its rights here")
    assert done.returncode == 0, done.stderr
    total, folder = done.stdout.split()
    return float(total), Path(folder)


def test_kernels_are_compiled_where_neither_home_nor_package_can_be_written(read_only: Path, tmp_path: Path) -> None:
    """Red: numba left to find a folder raises "no locator available" when the kernels are imported."""
    cache = tmp_path / "cache"
    assert call_a_kernel(read_only, cache) == (16.0, cache / "numba")
    assert list(cache.glob("numba/*/*.nbi"))


def test_without_any_cache_they_are_compiled_for_the_process_alone(read_only: Path) -> None:
    """Red: a cache that cannot be made, named to numba all the same."""
    total, folder = call_a_kernel(read_only, read_only / "home")
    assert total == 16.0
    assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()
