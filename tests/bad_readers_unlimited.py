"""`tests.bad_readers` as on a system without limits on memory."""

from __future__ import annotations

from cogen.data.formats import worker
from tests import bad_readers


def main() -> None:
    """Run it."""
    worker.limit_memory = lambda mib: None
    bad_readers.main()
