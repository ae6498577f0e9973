"""Memory of programs that pass messages on: they give it back; trainers do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cogen.flower.memory import MALLOC_ENVIRONMENT
from cogen.flower.node_programs import programs_of
from cogen.node.home import NodeHome
from tests.member import some_member

LEFT = """
import gc, time, weakref
from cogen.flower.memory import collect_often
class Message: pass
kept = Message()
collect_often(0.05)
message = Message()
message.itself, gone = message, weakref.ref(message)
del message
until = time.monotonic() + 20.0
while gone() is not None and time.monotonic() < until:
    time.sleep(0.05)
print(gone() is None, gc.get_freeze_count() > 1000)
"""


def test_what_is_left_in_a_cycle_is_let_go_soon() -> None:
    """In a process of its own, which goes on collecting. Red: it waits for tens of thousands of objects more."""
    said = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "True"]


def test_only_the_programs_of_flower_give_memory_back(tmp_path: Path) -> None:
    """Red: a trainer that gives its pages back after every step."""
    home = NodeHome(tmp_path)
    home.make()
    trainer, *flower = programs_of(home, some_member(), 0, print)
    assert trainer.name == "the trainer" and not set(MALLOC_ENVIRONMENT) & (set(trainer.environment) - set(os.environ))
    assert all(MALLOC_ENVIRONMENT.items() <= dict(program.environment).items() for program in flower)
