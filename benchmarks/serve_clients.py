"""Clients of the service that `serve.py` measures: sound ones, and ones that misbehave."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

__all__ = ["Client", "load_for", "request"]


def request(body: bytes, path: str = "/v1/predict") -> bytes:
    """A request's bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer benchmark-benchmark\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client:
    """A connection that asks and waits."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None

    async def ask(self, sent: bytes) -> int:
        """The status of the answer to a request."""
        if self._reader is None:
            self._reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.writer.write(sent)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head.split(None, 2)[1])

    def close(self) -> None:
        """Hangs up."""
        if self._reader is not None:
            self.writer.close()
            self._reader = None


async def load_for(
    port: int,
    seconds: float,
    bodies: Sequence[bytes],
    sound: int,
    bad: int = 0,
    path: str = "/v1/predict",
) -> tuple[list[float], Counter[int]]:
    """Latencies of the sound clients' answers, and all statuses."""
    sent = [request(body, path) for body in bodies]
    end = time.perf_counter() + seconds
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def ask(number: int) -> None:
        client, turn = Client(port), number * 17
        while (began := time.perf_counter()) < end:
            statuses[await client.ask(sent[turn % len(sent)])] += 1
            latencies.append(time.perf_counter() - began)
            turn += 1
        client.close()

    async def disturb(number: int) -> None:
        draw = random.Random(number)
        while time.perf_counter() < end:
            statuses[await _misbehave(Client(port), draw, sent[number])] += 1

    await asyncio.gather(*map(ask, range(sound)), *map(disturb, range(bad)))
    return latencies, statuses


async def _misbehave(client: Client, draw: random.Random, sound: bytes) -> int:
    """Rubbish, a slow body, or a hang-up; the status of an answer, 0 without one."""
    kind = draw.randrange(3)
    if kind == 0:
        status = await client.ask(request(bytes(draw.randrange(256) for _ in range(200))))
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", client._port)
        client._reader, client.writer = reader, writer
        half = len(sound) - 20
        writer.write(sound[:half] if kind == 1 else sound)
        await asyncio.sleep(draw.random())
        status = await client.ask(sound[half:]) if kind == 1 else 0
    client.close()
    return status
