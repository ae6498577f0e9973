"""A proxy between nodes and gateway that ends TLS with the federation's own certificate and records the nodes' requests.

It can also answer them itself, as a corrupt coordinator would.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cogen.deploy.folder import FederationFolder
from tests.faulty_proxy import GATEWAY_SIDE, NODE_SIDE, RESET

END = b"\r\n\r\n"


@dataclass(frozen=True)
class RecordedRequest:
    """One decrypted request of a node or of `cogen join`."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class RecordingProxy:
    """The proxy; `folder` is the coordinator's, which has a certificate once it serves.

    Args:
        port: the gateway listens on it at GATEWAY_SIDE, the proxy at NODE_SIDE.
    """

    bind = GATEWAY_SIDE

    def __init__(self, port: int, folder: Path) -> None:
        self.address, self.port = f"localhost:{port}", port
        self.folder = FederationFolder(folder)
        self.streams: list[bytearray] = []
        self.stop = threading.Event()
        self.num_faults = 0
        self._fault: Callable[[], bytes] | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop

    def inside(self, name: str) -> list[str]:
        """No prefix: all participants are on one machine."""
        return []

    def requests(self) -> list[RecordedRequest]:
        """All complete requests so far, in order of their connections."""
        return [said for stream in list(self.streams) for said in parsed(bytes(stream))]

    def again(self, said: RecordedRequest) -> tuple[int, bytes]:
        """Send a request again on a new connection; status and body of the gateway's answer."""
        import httpx

        trusted = ssl.create_default_context(cafile=str(self.folder.ca))
        kept = {k: v for k, v in said.headers.items() if k not in ("host", "connection", "content-length")}
        with httpx.Client(verify=trusted, trust_env=False, timeout=60.0) as client:
            address = f"https://{self.address}{said.path}"
            answer = client.request(said.method, address, headers=kept, content=said.body)
            return answer.status_code, answer.content

    @contextmanager
    def faulty(self, fault: Callable[[], bytes]) -> Iterator[None]:
        """In the block every request gets `fault()` instead of the gateway's answer; no bytes are a reset."""

        def cut() -> None:
            for writer in self._open:
                writer.close()

        self._fault = fault
        self._loop.call_soon_threadsafe(cut)
        try:
            yield
        finally:
            self._fault = None

    async def _answer_wrong(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._fault is not None
        with suppress(OSError):
            if await reader.read(65536):
                self.num_faults += 1
                if said := self._fault():
                    writer.write(said)
                    await writer.drain()
                else:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection of a node."""
        if self._fault is not None:
            await self._answer_wrong(reader, writer)
            return
        stream = bytearray()
        self._open.add(writer)
        self.streams.append(stream)
        trusted = ssl.create_default_context(cafile=str(self.folder.ca))
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(
                GATEWAY_SIDE, self.port, ssl=trusted, server_hostname="localhost"
            )
            ways = [_one_way(reader, far_writer, stream), _one_way(far_reader, writer, bytearray())]
            tasks = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                far_writer.close()
        self._open.discard(writer)
        writer.close()

    async def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder.server, self.folder.server_key)
        self._loop = asyncio.get_running_loop()
        async with await asyncio.start_server(self._carry, NODE_SIDE, self.port, ssl=context):
            while not self.stop.is_set():
                await asyncio.sleep(0.1)

    def run(self) -> None:
        """Serve until `stop`, as soon as the coordinator has made its certificate."""
        while not self.folder.server_key.is_file() or not self.folder.server.is_file():
            if self.stop.is_set():
                return
            time.sleep(0.02)
        asyncio.run(self._serve())


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            kept += chunk
            writer.write(chunk)
            await writer.drain()


def parsed(stream: bytes) -> Iterator[RecordedRequest]:
    """The requests of one connection; an incomplete last one is dropped."""
    while END in stream:
        head, _, rest = stream.partition(END)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert "transfer-encoding" not in headers, "a body without a length"
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        yield RecordedRequest(method, path, headers, rest[:length])
        stream = rest[length:]


@contextmanager
def running_recorder(recorder: RecordingProxy) -> Iterator[RecordingProxy]:
    """Run the proxy in a thread until the block ends."""
    thread = threading.Thread(target=recorder.run, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        recorder.stop.set()
        thread.join(10.0)
        assert not thread.is_alive()
