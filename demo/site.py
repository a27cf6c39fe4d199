"""A site of a thousand pages that link to each other, for the crawler.

    python demo/site.py DESCRIPTOR    serves on that listening socket until it is killed

Every answer is made beforehand, so that what is measured is the crawler. Nothing in this file knows of weft.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys

PAGES = 1_000
WORDS = "anchor buoy compass dinghy ensign fender grapnel hawser keel lantern mast oar pennant rudder sail tiller".split()


def pages() -> dict[str, str]:
    """The pages by their paths: the first links to ten, and so on, as a tree; and each to some at random."""
    rng = random.Random(1)
    made = {}
    for number in range(PAGES):
        below = [10 * number + child for child in range(1, 11) if 10 * number + child < PAGES]
        links = (
            below + rng.sample(range(PAGES), 5) + [PAGES + number] * (number % 100 == 0)
        )  # one that is missing
        text = " ".join(rng.choices(WORDS, k=300))
        anchors = "\n".join(f'<a href="/page/{link}">page {link}</a>' for link in links)
        made[f"/page/{number}"] = (
            f"<html><head><title>Page {number}</title></head><body><p>{text}</p>\n{anchors}</body></html>"
        )
    return made


def answer(status: str, body: str) -> bytes:
    raw = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


class Site(asyncio.Protocol):
    answers = {path: answer("200 OK", page) for path, page in pages().items()}
    missing = answer("404 Not Found", "<html><head><title>Missing</title></head></html>")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        *requests, self.received = (self.received + data).split(b"\r\n\r\n")
        for request in requests:
            path = request.split(b" ", 2)[1].decode()
            self.transport.write(self.answers.get(path, self.missing))


async def serve(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(Site, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
