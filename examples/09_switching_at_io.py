"""Switching at I/O: a greenlet for each client, one for the queue of a process, and calls that block in threads.

None of them names the others or says when to switch: whoever waits, for a socket, for a process, for a thread, lets the rest go on.

It prints:

    8 clients were answered by 1 process
    they waited for each other: False
    the digest came from a thread: True
"""

import hashlib
import socket
import threading

import weft
from weft.coroutines import joinall, offload, readable, spawn

CLIENTS = 8


def lengthen(questions, answers):
    """In a process: computes, while the other goes on with its sockets."""
    for number, word in iter(questions.get, None):
        answers.put((number, word * 3))


def client(connection, number):
    """Talks to the server as if there were nobody else."""
    connection.sendall(f"word {number}\n".encode())
    connection = readable(connection)
    return connection.recv(100).decode().strip()


def serve(connection, number, questions, pending):
    readable(connection)
    word = connection.recv(100).decode().strip()
    answer = pending[number] = weft.gevent.event.AsyncResult()
    questions.put((number, word))
    connection.sendall(f"{answer.get()}\n".encode())


def hand_out(answers, pending):
    while pending is not None:
        number, answer = answers.get()  # a queue between processes
        pending[number].set(answer)


def main():
    questions, answers, pending = weft.Queue(), weft.Queue(), {}
    worker = weft.Process(target=lengthen, args=(questions, answers))
    worker.start()
    pairs = [socket.socketpair() for _ in range(CLIENTS)]
    hander = spawn(hand_out, answers, pending)
    servers = [spawn(serve, near, number, questions, pending) for number, (near, _) in enumerate(pairs)]
    digest = spawn(offload, lambda: (hashlib.sha256(bytes(5_000_000)).hexdigest(), threading.get_ident()))
    clients = [spawn(client, far, number) for number, (_, far) in enumerate(pairs)]
    joinall([*servers, *clients], raise_error=True)
    right = [each.value for each in clients] == [f"word {number}" * 3 for number in range(CLIENTS)]
    print(f"{CLIENTS if right else 'not all'} clients were answered by 1 process")
    print("they waited for each other:", any(each.value is None for each in clients))
    print("the digest came from a thread:", digest.get()[1] != threading.get_ident())
    hander.kill()
    questions.put(None)
    worker.join()
    for pair in pairs:
        for end in pair:
            end.close()


if __name__ == "__main__":
    main()
