"""A name server on this machine, in threads of its own: what its names stand for, and how it may behave."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

ZONE = """
    host.test. 60 IN A 192.0.2.1
    host.test. 60 IN AAAA 2001:db8::1
    four.test. 60 IN A 192.0.2.4
    six.test. 60 IN AAAA 2001:db8::6
    alias.test. 60 IN CNAME middle.test.
    middle.test. 60 IN CNAME host.test.
    xn--bcher-kva.test. 60 IN A 192.0.2.9
    1.2.0.192.in-addr.arpa. 60 IN PTR host.test.
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR host.test.
"""
# More than fits into a datagram.
MANY = [f"192.0.2.{number}" for number in range(1, 101)]

Answers = Callable[["NameServer", dns.message.Message, bytes], bytes | None]


def _with_code(code: int) -> Answers:
    def answer(server: NameServer, query: dns.message.Message, wire: bytes) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.Rcode(code))
        return response.to_wire()

    return answer


def _held(server: NameServer, query: dns.message.Message, wire: bytes) -> bytes | None:
    server.held.release()
    server.go_on.wait(60)
    response = dns.message.make_response(query)
    if query.question[0].rdtype == 1:
        response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.7"))
    return response.to_wire()


def _pointer_to_itself(server: NameServer, query: dns.message.Message, wire: bytes) -> bytes:
    question = wire[12:]
    record = b"\xc0" + bytes([12 + len(question)]) + struct.pack("!HHIH", 1, 1, 60, 4) + b"\1\2\3\4"
    return wire[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + record


# By the name's first label; what comes after it tells questions apart, as answers are remembered.
ODD: dict[str, Answers] = {
    "empty": _with_code(0),
    "broken": _with_code(2),
    "refused": _with_code(5),
    "held": _held,
    "silent": lambda server, query, wire: None,
    # Answers that are none.
    "nothing": lambda server, query, wire: b"",
    "short": lambda server, query, wire: wire[:3],
    "noise": lambda server, query, wire: wire[:2] + bytes(range(256)),
    "stranger": lambda server, query, wire: (
        bytes([wire[0] ^ 0xFF]) + dns.message.make_response(query).to_wire()[1:]
    ),
    "circle": _pointer_to_itself,
    "cut": lambda server, query, wire: wire[:2] + b"\x81\x80\0\1\0\xff\0\0\0\0" + wire[12:],
}


class NameServer:
    """Answers by UDP and TCP at one port of 127.0.0.1, and notes what it was asked.

    `held` counts the questions for names that begin with `held`, which are answered once `go_on` is set.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.held = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._zone: dict[tuple[str, int], dns.rrset.RRset] = {}
        for line in ZONE.split("\n"):
            if words := line.split():
                rrset = dns.rrset.from_text(*words)
                self._zone[str(rrset.name), rrset.rdtype] = rrset
        self._stream = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._stream.getsockname()[1]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", self.port))
        for serve in (self._serve_datagrams, self._serve_streams):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        """End it; its threads end with their sockets."""
        self.go_on.set()
        for used in (self._datagrams, self._stream):
            with contextlib.suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)
            used.close()

    def _serve_datagrams(self) -> None:
        while True:
            try:
                wire, whose = self._datagrams.recvfrom(65535)
            except OSError:
                return
            if not wire:
                return  # shut down
            threading.Thread(target=self._answer_datagram, args=(wire, whose), daemon=True).start()

    def _answer_datagram(self, wire: bytes, whose: Any) -> None:
        answer = self._answer(wire, "udp")
        if answer is not None:
            with contextlib.suppress(OSError):
                self._datagrams.sendto(answer, whose)

    def _serve_streams(self) -> None:
        while True:
            try:
                connection, _ = self._stream.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_stream, args=(connection,), daemon=True).start()

    def _serve_stream(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while head := stream.read(2):
                wire = stream.read(struct.unpack("!H", head)[0])
                answer = self._answer(wire, "tcp")
                if answer is None:
                    return
                stream.write(struct.pack("!H", len(answer)) + answer)
                stream.flush()

    def _answer(self, wire: bytes, way: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = str(question.name).lower()
        self.asked.append((name.rstrip("."), way))
        first = name.partition(".")[0].rstrip("0123456789")
        if first in ODD:
            return ODD[first](self, query, wire)
        response = dns.message.make_response(query)
        if name == "many.test.":
            if way == "udp":
                response.flags |= dns.flags.TC
            elif question.rdtype == 1:
                response.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", MANY))
            return response.to_wire(max_size=65535)
        known = {each for each, _ in self._zone}
        if name not in known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        while (name, 5) in self._zone:
            link = self._zone[name, 5]
            response.answer.append(link)
            name = str(link[0].target)
        if (name, question.rdtype) in self._zone:
            response.answer.append(self._zone[name, question.rdtype])
        return response.to_wire()


if __name__ == "__main__":
    # For other processes: says where it is, and serves until its input ends.
    import sys

    server = NameServer()
    print(server.port, flush=True)
    sys.stdin.read()
