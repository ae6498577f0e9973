"""A file that crashes, stalls or fills up its reader costs a reason and not the corpus.

The process is the real one; its readers do what the file says (tests/bad_readers.py).
"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cogen.data import Document, iter_corpus, read_corpus
from cogen.data.document import Item, Note, Skipped
from cogen.data.formats import bytes_of
from cogen.data.formats.isolated import Limits, ReaderProcess
from cogen.data.formats.messages import Unpacker, item_of, item_values, packed
from cogen.errors import DataError

WORKER = "tests.bad_readers"
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def process() -> Iterator[ReaderProcess]:
    with ReaderProcess(Limits(memory_mib=200), worker=WORKER) as process:
        yield process
    assert children() == []


def children() -> list[psutil.Process]:
    """Processes of readers that this one has started, also dead ones that nobody has waited for."""
    return [c for c in psutil.Process().children() if c.status() == psutil.STATUS_ZOMBIE or WORKER in str(c.cmdline())]


def put(folder: Path, *lines: str, name: str = "a.pdf") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(process: ReaderProcess, path: Path) -> list[Item]:
    """What reading gives; the bytes must add up."""
    found = list(process.read(path, path.name))
    assert sum(map(bytes_of, found)) == path.stat().st_size and all(bytes_of(item) >= 0 for item in found)
    return found


def texts(items: list[Item]) -> list[str]:
    return [
        item.text if isinstance(item, Document) else item.reason if isinstance(item, Skipped) else "" for item in items
    ]


CAN_READ = "expected a file that its reader can read, got"


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        (["abort"], f"{CAN_READ} a reader that crashed (SIGABRT)"),
        (["segfault"], f"{CAN_READ} a reader that crashed (SIGSEGV)"),
        (["exit"], f"{CAN_READ} a reader that crashed (exit status 3)"),
        (["raise too deep"], f"{CAN_READ} RecursionError: too deep"),
        (["fill 1000"], "expected a file whose reader takes at most 200 MiB of memory, got more"),
        (["hide 1000"], "expected a file whose reader takes at most 200 MiB of memory, got more"),
        (["bad luck"], "expected a fine line, got luck"),
    ],
)
def test_a_bad_file_costs_a_reason_and_the_next_is_read(
    tmp_path: Path, process: ReaderProcess, orders: list[str], reason: str
) -> None:
    """Red: no limit on memory; an error of memory that a reader hides taken for one of the file."""
    bad = put(tmp_path, "say before", *orders)
    good = put(tmp_path, "say one", "print noise", "say two", name="b.docx")
    # what was said just before a crash may be lost with it: its bytes are then of the reason
    assert texts(read(process, bad)) in ([reason], ["before", reason])
    assert texts(read(process, good))[:2] == ["one", "two"]


@pytest.mark.parametrize("order", ["loop", "sleep"])
def test_a_reader_that_does_not_get_on_is_stopped(tmp_path: Path, order: str) -> None:
    """Red: no alarm; an alarm in Python, which a loop in a library outlives."""
    limits = Limits(step_seconds=1, seconds_per_mib=0)
    with ReaderProcess(limits, worker=WORKER) as process:
        path = put(tmp_path, "say one", "work 0.1", "say two", order)
        start = time.monotonic()
        *found, last = texts(read(process, path))
        assert last == "expected a file whose reader takes at most 1 s for a part and 5 s in all, got more"
        assert found in (["one"], ["one", "two"]) and time.monotonic() - start < 30


def test_slow_progress_and_a_slow_consumer_are_no_fault(tmp_path: Path) -> None:
    """Steps of 0.4 s for 1.6 s in all; then who reads waits for 1.5 s. Red: one alarm for all; one that waits with it."""
    with ReaderProcess(Limits(step_seconds=1, seconds_per_mib=0), worker=WORKER) as process:
        items = process.read(put(tmp_path, *["work 0.4"] * 4, *["say " + "x" * 300_000] * 4), "a.pdf")
        found = [next(items)]
        time.sleep(1.5)
        assert [len(item.text) for item in (*found, *items) if isinstance(item, Document)] == [300_000] * 4
    with ReaderProcess(Limits(step_seconds=0.5, seconds_per_mib=0, num_steps=2), worker=WORKER) as process:
        (found,) = [i for i in process.read(put(tmp_path, *["work 0.3"] * 9), "a.pdf") if isinstance(i, Skipped)]
        assert "at most 0 s for a part and 1 s in all" in found.reason


def test_memory_is_watched_where_the_system_has_no_limit(tmp_path: Path) -> None:
    """Red: `_watch` without its error."""
    with ReaderProcess(Limits(memory_mib=100), worker="tests.bad_readers_unlimited") as process:
        (found,) = read(process, put(tmp_path, "fill 400", "sleep"))
    assert isinstance(found, Skipped) and "at most 100 MiB of memory" in found.reason


def test_one_process_reads_all_files_until_it_dies(tmp_path: Path, process: ReaderProcess) -> None:
    pid = put(tmp_path, "pid")
    first, second = (texts(read(process, pid)) for _ in range(2))
    assert first == second and first != [str(os.getpid())]
    os.kill(int(first[0]), signal.SIGKILL)  # between two files, as a system short of memory may do
    time.sleep(0.1)
    third = texts(read(process, pid))
    assert third[0].isdigit() and third != first


def test_plain_formats_start_no_process(tmp_path: Path, process: ReaderProcess) -> None:
    assert texts(read(process, put(tmp_path, "one", name="a.txt"))) == ["one\n"] and children() == []


def test_leaving_early_ends_the_process(tmp_path: Path) -> None:
    """And what it had still to say is not taken for the next file's. Red: `read` without `finally`."""
    path = put(tmp_path, *["say " + "x" * 300_000] * 9)
    with ReaderProcess(worker=WORKER) as process:
        items = process.read(path, "a.pdf")
        next(items)
        items.close()
        assert children() == []
        assert texts(list(process.read(put(tmp_path, "say next", name="b.pdf"), "b.pdf"))) == ["next"]
        items = process.read(path, "a.pdf")
        next(items)
    assert children() == []


def test_an_error_says_the_same_as_without_a_process(tmp_path: Path, process: ReaderProcess) -> None:
    path = put(tmp_path, "bad luck")
    (found,) = read(process, path)
    assert isinstance(found, Skipped) and isinstance(found.error, DataError)
    assert (
        str(found.error) == (f"cannot read data: expected a fine line, got luck ({path}, line 1). Mend it.")
        and found.error.where == f"{path}, line 1"
    )
    missing = tmp_path / "none.pdf"
    (gone,) = process.read(missing, "none.pdf")
    assert isinstance(gone, Skipped) and gone.reason == "expected a readable file, got No such file or directory"


def test_a_name_that_is_not_utf8_arrives(tmp_path: Path, process: ReaderProcess) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.pdf"
    try:
        Path(os.fsdecode(raw)).write_text("say one\n")
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (found,) = process.read(Path(os.fsdecode(raw)), os.fsdecode(b"caf\xe9.pdf"))
    assert isinstance(found, Document) and (found.text, found.source) == ("one", "caf\\udce9.pdf")


def test_messages_hold_whatever_a_file_says() -> None:
    items: list[Item] = [
        Document("a\udce9", "t\0", "é😀\u2028\n\x01", "s", split_id="x", num_file_bytes=7),
        Skipped("f", "why", 3, is_loss=False),
        Skipped.of(DataError("w", expected="e", got="g\udce9", where="f, page 2", fix="Do."), 4),
        Note("f", "delimiter ;", 5),
    ]
    unpacker, content = Unpacker(), packed([item_values(item) for item in items]) + packed([])
    messages = [m for at in range(0, len(content), 3) for m in unpacker.add(content[at : at + 3])]
    assert messages[1] == []
    for item, values in zip(items, messages[0], strict=True):
        made = item_of(values)
        assert vars(made) | {"error": None} == vars(item) | {"error": None}
        if isinstance(item, Skipped) and item.error:
            assert isinstance(made, Skipped) and str(made.error) == str(item.error)
    with pytest.raises(ValueError, match="a message of"):
        list(Unpacker().add(b"\xff" * 16))


def _read_in_another_process(folder: str) -> list[str]:
    return [d.text for d in read_corpus(folder)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_processes_that_may_have_no_children(tmp_path: Path, method: str) -> None:
    """Daemonic ones, as pools have them."""
    put(tmp_path, "<p>one</p>", name="a.html")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert [t.strip() for t in pool.apply(_read_in_another_process, (str(tmp_path),))] == ["one"]


def test_a_forked_copy_leaves_the_process_alone(tmp_path: Path, process: ReaderProcess) -> None:
    """Red: `os.kill` by its id."""
    pid = put(tmp_path, "pid")
    before = texts(read(process, pid))
    child = multiprocessing.get_context("fork").Process(target=process.__exit__, args=(None, None, None))
    child.start()
    child.join()
    assert child.exitcode == 0 and texts(read(process, pid)) == before


def script(body: str, *args: object) -> list[str]:
    """A program that reads with the bad readers."""
    start = "import sys; from pathlib import Path; from cogen.data.formats.isolated import *\n"
    return [sys.executable, "-c", start + body, *map(str, args)]


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.05)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("last", ["sleep", "say never"])
def test_it_dies_with_its_parent(tmp_path: Path, end: signal.Signals, last: str) -> None:
    """Also without a chance to say so, and in the middle of a file. Nothing but the parent's own error is printed."""
    path = put(tmp_path, "pid")
    body = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background jobs
        "p = ReaderProcess(Limits(step_seconds=3, seconds_per_mib=0), 'tests.bad_readers').__enter__()\n"
        "print(list(p.read(Path(sys.argv[1]), 'a'))[0].text, flush=True)\n"
        "import time; r = p.read(Path(sys.argv[2]), 'b'); next(r); time.sleep(60)"
    )
    more = put(tmp_path, "say " + "x" * 300_000, last, name="b.pdf")
    parent = subprocess.Popen(
        script(body, path, more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None and parent.stderr is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)  # as a terminal does, to all
    parent.send_signal(end)
    parent.wait(30)
    wait_until_gone(pid)
    assert parent.stderr.read().count("Traceback") == (end == signal.SIGINT)
    parent.stdout.close(), parent.stderr.close()


def test_order_stays_over_formats(tmp_path: Path) -> None:
    put(tmp_path, "two", name="b.txt")
    for name, text in (("a.html", "one"), ("c.html", "three")):
        put(tmp_path, f"<p>{text}</p>", name=name)
    put(tmp_path, json.dumps({"text": "four"}), name="d.jsonl")
    assert [d.text.strip() for d in read_corpus(tmp_path)] == ["one", "two", "three", "four"]
    items = iter_corpus(tmp_path)
    assert isinstance(next(items), Document)
    items.close()


def test_items_arrive_before_the_file_ends(tmp_path: Path, process: ReaderProcess) -> None:
    """Red: one message a file."""
    items = process.read(put(tmp_path, "say one", "work 0.2", "say two", "sleep"), "a.pdf")
    assert isinstance(first := next(items), Document) and first.text == "one"
    items.close()


def test_what_only_says_that_a_reader_gets_on_does_not_travel(tmp_path: Path, process: ReaderProcess) -> None:
    found = read(process, put(tmp_path, "work 0", "say one"))
    assert [i for i in found if isinstance(i, Note) and not i.num_bytes] == []


def test_the_process_starts_without_what_training_needs() -> None:
    code = "import sys, cogen.data.formats.worker; print([m for m in ('torch', 'transformers', 'flwr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
