"""A proxy between nodes and gateway that delays traffic, breaks connections in the middle of a body, and stops for a while."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NODE_SIDE, GATEWAY_SIDE = (
    "127.0.0.1",
    "127.0.0.2",
)  # addresses of the proxy for nodes and of the gateway, on the same port
CHUNK_BYTES = 4096
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: reset instead of an orderly close


class FaultyProxy:
    """Draws from `seed` how long each chunk takes, and after how many bytes a connection is closed or reset.

    Args:
        port: the gateway listens on it at GATEWAY_SIDE, the proxy at NODE_SIDE.
        delay_seconds: the longest delay of a chunk of 4 kB.
        bytes_between: fewest and most bytes, both ways together, that a connection carries before it breaks.
    """

    bind = GATEWAY_SIDE

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
        """No prefix: all participants are on one machine."""
        return []

    def go_dark(self, seconds: float) -> None:
        """Forward nothing for `seconds`; connections stay open, as when a router is off."""

        def dark() -> None:
            self._light.clear()
            self._loop.call_later(seconds, self._light.set)

        self._loop.call_soon_threadsafe(dark)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection of a node."""
        self.num_held += not self._light.is_set()
        await self._light.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(GATEWAY_SIDE, self.port)
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
        server = await asyncio.start_server(self._carry, NODE_SIDE, self.port)
        up.set()
        async with server:
            await server.serve_forever()


@contextmanager
def running_proxy(proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """Run the proxy in a thread until the block ends."""
    up, loop = threading.Event(), proxy._loop
    serving = loop.create_task(proxy._serve(up))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert up.wait(10.0)
        yield proxy
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(10.0)
