"""A network of its own for each participant (Linux, root): namespaces on a bridge, with nothing else to reach.

The cable between a domain and the bridge is a pair of taps with a program in between, which may hold frames up and
lose some: `tc netem` does the same, where a kernel has it.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from tests.ports import free_port

TUNSETIFF, TAP, PLAIN_FRAMES = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 65536


def ip(*args: str) -> None:
    """`ip ARGS`; raises OSError where it is not there or not allowed."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")


def tap(name: str, namespace: str, named: str) -> int:
    """A tap in `namespace`, where it is called `named`; its descriptor."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | PLAIN_FRAMES))
    ip("link", "set", name, "netns", namespace)
    ip("-n", namespace, "link", "set", name, "name", named)
    return handle


class Wire:
    """Carries frames between two taps until `over`, each after `delay_seconds` give or take `jitter_seconds`."""

    def __init__(
        self, ends: tuple[int, int], seed: int, delay_seconds: float, jitter_seconds: float, loss_frac: float
    ) -> None:
        self.ends, self.delay, self.jitter, self.loss_frac = ends, delay_seconds, jitter_seconds, loss_frac
        self.drawn = random.Random(seed)
        self.num_frames = self.num_lost = 0
        self.over = threading.Event()

    def carry(self) -> None:
        """Until it is over."""
        waiting: list[tuple[float, int, int, bytes]] = []
        while not self.over.is_set():
            left = max(waiting[0][0] - time.monotonic(), 0.0) if waiting else 0.2
            for end in select.select(self.ends, [], [], min(left, 0.2))[0]:
                frame = os.read(end, FRAME_BYTES)
                self.num_frames += 1
                if self.drawn.random() < self.loss_frac:
                    self.num_lost += 1
                    continue
                due = time.monotonic() + self.delay + self.drawn.uniform(-self.jitter, self.jitter)
                other = self.ends[1] if end == self.ends[0] else self.ends[0]
                heapq.heappush(waiting, (due, self.num_frames, other, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                with suppress(OSError):  # the far side is down
                    os.write(waiting[0][2], waiting[0][3])
                heapq.heappop(waiting)


class Networks:
    """Where each participant is: the coordinator at the first address, the domains at the next."""

    bind = "0.0.0.0"

    def __init__(self, names: Sequence[str]) -> None:
        self.mark = f"cg{os.getpid() % 10000}"
        self.names, self.address = list(names), f"10.77.0.1:{free_port()}"
        self.wires: list[Wire] = []

    def inside(self, name: str) -> list[str]:
        """What a command of this participant begins with."""
        return ["ip", "netns", "exec", f"{self.mark}-{name}"]


@contextmanager
def networks(names: Sequence[str], delay_seconds: float, jitter_seconds: float, loss_frac: float) -> Iterator[Networks]:
    """The namespaces, until the block ends.

    Raises:
        OSError: they cannot be made here.
    """
    made = Networks(names)
    with ExitStack() as at_end:

        def namespace(name: str) -> str:
            full = f"{made.mark}-{name}"
            ip("netns", "add", full)
            at_end.callback(subprocess.run, ["ip", "netns", "delete", full], check=False)
            ip("-n", full, "link", "set", "lo", "up")
            return full

        hub = namespace("hub")
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names):
            place = namespace(name)
            ends = tap(f"{made.mark}a{number}", place, "eth0"), tap(f"{made.mark}b{number}", hub, name)
            for end in ends:
                at_end.callback(os.close, end)
            ip("-n", hub, "link", "set", name, "master", "bridge", "up")
            ip("-n", place, "address", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            ip("-n", place, "link", "set", "eth0", "up")
            wire = Wire(ends, number, delay_seconds, jitter_seconds, loss_frac)
            thread = threading.Thread(target=wire.carry, daemon=True)
            thread.start()
            at_end.callback(thread.join, 5.0)
            at_end.callback(wire.over.set)
            made.wires.append(wire)
        yield made
