"""A load balancer: each connection goes to the next of several servers, whoever it comes from."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


@contextmanager
def balancing(urls: list[str]) -> Iterator[str]:
    """The URL of the balancer."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(_serve(urls), loop).result(timeout=60)
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
        asyncio.run_coroutine_threadsafe(_close(server), loop).result(timeout=60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(urls: list[str]) -> asyncio.Server:
    turns = cycle(urls)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = urlsplit(next(turns))
        with suppress(OSError):  # either side may end as it likes
            to_reader, to_writer = await asyncio.open_connection(place.hostname, place.port)
            await asyncio.gather(_pass_on(reader, to_writer), _pass_on(to_reader, writer))

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
