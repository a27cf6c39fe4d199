"""One end of a conversation over a socket: run by an interpreter with or without weft.

    peer.py listen FAMILY KEY     prints the address, then serves one client
    peer.py connect FAMILY KEY    reads the address from its standard input, then is that client

The client sends objects and gets them back; both check them. A key of `-` is none. Prints `good` at the end,
or the name of the exception that refused the other's key.
"""

import array
import json
import multiprocessing
import sys
from multiprocessing.connection import Client, Listener

OBJECTS = [
    None,
    True,
    -1,
    255,
    65536,
    2**40,
    -(2**80),
    1.5,
    "",
    "grüße",
    "x" * 70_000,
    b"",
    b"\x00" * 300,
    bytes(range(256)) * 5000,
    (1, "two", [3.0, {"four": b"5"}]),
    array.array("d", [0.5] * 100),
]


def serve(family, key):
    address = ("127.0.0.1", 0) if family == "AF_INET" else None
    with Listener(address, family, authkey=key) as listener:
        print(json.dumps(listener.address), flush=True)
        try:
            connection = listener.accept()
        except multiprocessing.AuthenticationError as error:
            return type(error).__name__
        with connection:
            for wanted in OBJECTS:
                got = connection.recv()
                assert got == wanted and type(got) is type(wanted), got
                connection.send(got)
            for wanted in OBJECTS:
                if isinstance(wanted, bytes):
                    assert connection.recv_bytes() == wanted
                    connection.send_bytes(wanted)
            try:
                connection.recv()
            except EOFError:
                return "good"
            return "something follows"


def converse(family, key):
    address = json.loads(sys.stdin.readline())
    address = tuple(address) if isinstance(address, list) else address
    try:
        connection = Client(address, family, authkey=key)
    except (multiprocessing.AuthenticationError, EOFError, ConnectionError) as error:
        return type(error).__name__
    with connection:
        for sent in OBJECTS:
            connection.send(sent)
            assert connection.recv() == sent
        for sent in OBJECTS:
            if isinstance(sent, bytes):
                connection.send_bytes(sent)
                room = bytearray(len(sent) + 1)
                assert connection.recv_bytes_into(room, 1) == len(sent)
                assert room[1:] == sent
    return "good"


if __name__ == "__main__":
    role, family, key = sys.argv[1:]
    key = None if key == "-" else key.encode()
    print({"listen": serve, "connect": converse}[role](family, key))
