"""A bad line between the nodes and the gateway: it delays, breaks in the middle of a body, and goes dark for a while."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NODES, GATEWAY = "127.0.0.1", "127.0.0.2"  # which side of the line listens where, on the same port
CHUNK_BYTES = 4096
RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no goodbye


class Cable:
    """What `seed` draws: how long each chunk takes, and after how many bytes a connection breaks, cleanly or not.

    Args:
        port: at which the gateway listens on its side, and the nodes ask on theirs.
        delay_seconds: the longest that a chunk of 4 kB is held up.
        bytes_between: fewest and most bytes, both ways together, that a connection carries before it breaks.
    """

    bind = GATEWAY

    def __init__(self, port: int, seed: int, delay_seconds: float, bytes_between: tuple[int, int]) -> None:
        self.address = f"localhost:{port}"
        self.port, self.delay_seconds, self.bytes_between = port, delay_seconds, bytes_between
        self.drawn = random.Random(seed)
        self.breaks = False
        self.num_cuts = self.num_held = 0
        self._loop = asyncio.new_event_loop()
        self._light = asyncio.Event()
        self._light.set()

    def inside(self, name: str) -> list[str]:
        """All are on one machine."""
        return []

    def go_dark(self, seconds: float) -> None:
        """Nothing goes through for so long; connections stay open, as when a router is off."""

        def dark() -> None:
            self._light.clear()
            self._loop.call_later(seconds, self._light.set)

        self._loop.call_soon_threadsafe(dark)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a node's."""
        self.num_held += not self._light.is_set()
        await self._light.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(GATEWAY, self.port)
        except OSError:
            writer.close()
            return
        low, high = self.bytes_between
        left = [int(low * (high / low) ** self.drawn.random())]
        ways = [self._one_way(reader, far_writer, left), self._one_way(far_reader, writer, left)]
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if left[0] <= 0:
                self.num_cuts += 1
                if self.drawn.random() < 0.5:
                    for side in (writer, far_writer):
                        side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        finally:
            for task in tasks:
                task.cancel()
            for side in (writer, far_writer):
                side.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await asyncio.sleep(self.drawn.uniform(0.0, self.delay_seconds))
                if not self._light.is_set():
                    self.num_held += 1
                    await self._light.wait()
                if self.breaks:
                    carried, left[0] = max(left[0], 0), left[0] - len(chunk)
                    chunk = chunk[:carried]
                writer.write(chunk)
                await writer.drain()
                if left[0] <= 0:
                    return

    async def _serve(self, up: threading.Event) -> None:
        server = await asyncio.start_server(self._carry, NODES, self.port)
        up.set()
        async with server:
            await server.serve_forever()


@contextmanager
def laid(cable: Cable) -> Iterator[Cable]:
    """The line, in a thread of its own until the block ends."""
    up, loop = threading.Event(), cable._loop
    serving = loop.create_task(cable._serve(up))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert up.wait(10.0)
        yield cable
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(10.0)
