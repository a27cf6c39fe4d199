"""Encrypted sockets, without certificates: the two sides trust each other."""

from __future__ import annotations

import socket as stdlib
import ssl as standard_ssl
import sys
from pathlib import Path

import pytest
from weft.gevent import joinall, sleep, socket, spawn, ssl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from interpreter import prints

# Nobody shows who he is.
CIPHERS = "AECDH-AES256-SHA:@SECLEVEL=0"


def context(side: int, kind: type[standard_ssl.SSLContext] = ssl.SSLContext) -> standard_ssl.SSLContext:
    made = kind(side)
    made.check_hostname = False
    made.verify_mode = standard_ssl.CERT_NONE
    made.maximum_version = standard_ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    return made


def encrypted() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    near, far = socket.socketpair()
    server = spawn(context(standard_ssl.PROTOCOL_TLS_SERVER).wrap_socket, near, server_side=True)
    client = spawn(context(standard_ssl.PROTOCOL_TLS_CLIENT).wrap_socket, far)
    joinall([server, client], raise_error=True)
    return server.value, client.value


def test_both_sides_wait_in_greenlets() -> None:
    server, client = encrypted()
    assert isinstance(server, ssl.SSLSocket) and isinstance(server, standard_ssl.SSLSocket)
    assert server.version() == "TLSv1.2"
    reader = spawn(client.recv, 100)
    sleep(0)
    assert not reader.ready()
    server.sendall(b"word")
    assert reader.get() == b"word"
    data = bytes(range(256)) * 10_000
    writer = spawn(server.sendall, data)
    received = bytearray()
    while len(received) < len(data):
        received += client.recv(1 << 16)
    writer.get()
    assert received == data
    with client.makefile("rwb") as file:
        line = spawn(file.readline)
        sleep(0)
        server.sendall(b"a line\n")
        assert line.get() == b"a line\n"
    ended = spawn(server.unwrap)
    client.unwrap()
    ended.get()
    server.close()
    client.close()


def test_time_limits_and_no_waits() -> None:
    server, client = encrypted()
    client.settimeout(0.01)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.setblocking(False)
    with pytest.raises(standard_ssl.SSLWantReadError):
        client.recv(1)
    server.close()
    client.close()


def test_what_comes_before_the_handshake_is_not_taken_for_encrypted() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        near.sendall(b"plain")
        near.shutdown(stdlib.SHUT_WR)
        near.close()
        with pytest.raises(OSError):
            context(standard_ssl.PROTOCOL_TLS_SERVER).wrap_socket(far, server_side=True)


def test_what_makes_no_sense_is_refused() -> None:
    server, client = context(standard_ssl.PROTOCOL_TLS_SERVER), context(standard_ssl.PROTOCOL_TLS_CLIENT)
    with socket.socket(type=stdlib.SOCK_DGRAM) as datagrams, pytest.raises(NotImplementedError):
        client.wrap_socket(datagrams)
    with socket.socket() as made, pytest.raises(ValueError, match="client mode"):
        server.wrap_socket(made, server_side=True, server_hostname="host")
    with pytest.raises(ValueError, match="certfile"):
        ssl.wrap_socket(None, server_side=True)


def test_contexts_of_before_are_patched_too() -> None:
    ask = """
import ssl
from ssl import SSLContext
class Own(SSLContext):
    pass
before = [SSLContext(ssl.PROTOCOL_TLS_CLIENT), Own(ssl.PROTOCOL_TLS_CLIENT), ssl.create_default_context()]
from weft.gevent import monkey, ssl as ours
monkey.patch_ssl()
print(*{each.sslsocket_class is ours.SSLSocket for each in before}, ssl.SSLContext is SSLContext)
before[1].minimum_version = ssl.TLSVersion.TLSv1_2
print(monkey.is_module_patched("ssl"), ours.create_default_context().sslsocket_class is ours.SSLSocket)
"""
    assert prints("-c", ask) == ["True True", "True True"]
