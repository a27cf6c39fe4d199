"""Sockets as programs use them: each call waits for its own greenlet alone."""

from __future__ import annotations

import errno
import os
import socket as stdlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from weft.gevent import Greenlet, Timeout, get_hub, joinall, sleep, socket, spawn
from weft.gevent.exceptions import ConcurrentObjectUseError, LoopExit

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        yield made


@pytest.fixture
def pair(listener: socket.socket) -> Iterator[Pair]:
    connecting = spawn(socket.create_connection, listener.getsockname())
    near, _ = listener.accept()
    far = connecting.get()
    with near, far:
        yield near, far


def test_accept_and_connect_wait_for_each_other(listener: socket.socket) -> None:
    accepted = spawn(listener.accept)
    sleep(0)
    assert not accepted.ready()
    with socket.create_connection(listener.getsockname()) as near:
        far, address = accepted.get()
        with far:
            assert address == near.getsockname()
            near.sendall(b"word")
            assert far.recv(10) == b"word"
            assert isinstance(far, socket.socket) and isinstance(far, stdlib.socket)


def test_a_reader_waits_alone(pair: Pair) -> None:
    near, far = pair
    reader = spawn(near.recv, 10)
    others = [spawn(sleep, 0) for _ in range(3)]
    joinall(others)
    assert not reader.ready()
    far.send(b"now")
    assert reader.get() == b"now"


def test_what_is_left_is_read_after_a_look(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"twice")
    assert near.recv(100, stdlib.MSG_PEEK) == b"twice"
    assert near.recv(100) == b"twice"
    far.shutdown(stdlib.SHUT_WR)
    assert near.recv(100) == b""


def test_descriptors_that_come_with_bytes_do_not_hide_bytes_that_follow() -> None:
    near, far = socket.socketpair()
    read, write = os.pipe()
    with near, far:
        far.sendall(b"before")
        far.sendmsg([b"with"], [(stdlib.SOL_SOCKET, stdlib.SCM_RIGHTS, read.to_bytes(4, "little"))])
        far.sendall(b"after")
        received = b""
        while len(received) < len(b"beforewithafter"):
            with Timeout(30):
                received += near.recv(100)
    os.close(read)
    os.close(write)
    assert received == b"beforewithafter"


def test_the_identity_of_a_sender_does_not_hide_what_another_sends() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_PASSCRED, 1)
        far.sendall(b"before")
        child = os.fork()
        if not child:
            os.write(far.fileno(), b"with")
            os._exit(0)
        os.waitpid(child, 0)
        far.sendall(b"after")
        received = b""
        while len(received) < len(b"beforewithafter"):
            with Timeout(30):
                received += near.recv(100)
    assert received == b"beforewithafter"


def test_datagrams_are_read_one_by_one() -> None:
    with socket.socket(type=stdlib.SOCK_DGRAM) as here, socket.socket(type=stdlib.SOCK_DGRAM) as there:
        here.bind(("127.0.0.1", 0))
        there.connect(here.getsockname())
        for word in (b"one", b"two", b"three"):
            there.send(word)
        with Timeout(30):
            assert [here.recv(100) for _ in range(3)] == [b"one", b"two", b"three"]
        waiting = spawn(here.recvfrom, 100)
        sleep(0)
        there.sendto(b"four", here.getsockname())
        data, _ = waiting.get()
        assert data == b"four"


def test_no_time_is_no_wait(pair: Pair) -> None:
    near, far = pair
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        near.recv(1)
    with pytest.raises(BlockingIOError):
        near.recv_into(bytearray(1))
    with pytest.raises(BlockingIOError):
        near.recvfrom(1)
    far.sendall(b"x")
    # Not yet known to the loop, and there all the same.
    assert near.recv(1) == b"x"
    with pytest.raises(BlockingIOError):
        while True:
            near.send(bytes(1 << 20))


def test_a_call_may_say_that_it_does_not_wait(pair: Pair) -> None:
    near, _ = pair
    with pytest.raises(BlockingIOError):
        near.recv(1, stdlib.MSG_DONTWAIT)


def test_time_limits(pair: Pair) -> None:
    near, far = pair
    assert near.gettimeout() is None and near.getblocking()
    near.settimeout(0.01)
    with pytest.raises(TimeoutError, match="timed out"):
        near.recv(1)
    with pytest.raises(TimeoutError):
        near.sendall(bytes(50_000_000))
    for wrong, error in ((-1, ValueError), ("1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            near.settimeout(wrong)  # type: ignore[arg-type]
    near.settimeout(None)
    far.close()


def test_who_reads_from_what_is_closed_learns_of_it(pair: Pair) -> None:
    near, _ = pair
    reader = spawn(near.recv, 1)
    reader.link_exception(lambda _: None)
    sleep(0)
    near.close()
    with pytest.raises(OSError) as caught:
        reader.get()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError):
        near.recv(1)


def test_who_reads_from_what_is_shut_down_learns_of_it(pair: Pair) -> None:
    near, far = pair
    reader = spawn(near.recv, 1)
    writer = spawn(near.sendall, bytes(50_000_000))
    sleep(0)
    near.shutdown(stdlib.SHUT_RD)
    with pytest.raises(OSError) as caught:
        reader.get()
    assert caught.value.errno == errno.EBADF
    # Whoever writes is not concerned.
    sleep(0)
    assert not writer.ready()
    writer.kill()
    far.close()


def test_two_may_not_read_at_once(pair: Pair) -> None:
    near, far = pair
    first = spawn(near.recv, 1)
    sleep(0)
    with pytest.raises(ConcurrentObjectUseError):
        near.recv(1)
    far.sendall(b"1")
    assert first.get() == b"1"


def test_a_socket_that_is_not_counted_lets_the_loop_end(pair: Pair) -> None:
    near, _ = pair
    assert near.ref
    near.ref = False
    assert not near.ref and not near._read_event.ref
    with pytest.raises(LoopExit):
        near.recv(1)
    near.ref = True


def test_a_connection_that_is_refused(listener: socket.socket) -> None:
    address = listener.getsockname()
    listener.close()
    with socket.socket() as made:
        with pytest.raises(ConnectionRefusedError):
            made.connect(address)
        assert made.connect_ex(address) == errno.ECONNREFUSED
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(ExceptionGroup):
        socket.create_connection(address, all_errors=True)


def test_a_failed_attempt_does_not_spoil_the_next(listener: socket.socket) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = unused.getsockname()
    with socket.socket() as made:
        assert made.connect_ex(nobody) == errno.ECONNREFUSED
        made.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            reader = spawn(made.recv, 10)
            sleep(0)
            far.sendall(b"well")
            assert reader.get() == b"well"


def test_local_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "here")
    with socket.socket(stdlib.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        makers = [spawn(_connected, path) for _ in range(5)]
        sleep(0)
        accepted = [listener.accept()[0] for _ in makers]
        joinall(makers, raise_error=True)
        for each in (*accepted, *(maker.value for maker in makers)):
            each.close()


def _connected(path: str) -> socket.socket:
    made = socket.socket(stdlib.AF_UNIX)
    made.connect(path)
    return made


def test_files_of_a_socket(pair: Pair) -> None:
    near, far = pair
    with near.makefile("rwb") as there, far.makefile("r", encoding="utf-8") as here:
        line = spawn(here.readline)
        sleep(0)
        there.write("Grüße\n".encode())
        there.flush()
        assert line.get() == "Grüße\n"
        near.close()
        # The file keeps it open.
        there.write(b"end")
        there.flush()
    assert [far.recv(10), far.recv(10)] == [b"end", b""]


def test_a_file_is_sent_whole(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        sending = spawn(near.sendfile, file, 5)
        received = bytearray()
        while len(received) < len(data) - 5:
            received += far.recv(1 << 16)
        assert sending.get() == len(data) - 5
        assert file.tell() == len(data)
    assert received == data[5:]


def test_a_part_of_a_buffer(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"abcdef")
    room = bytearray(6)
    assert near.recv_into(room, 2) == 2
    assert near.recv_into(memoryview(room)[2:]) == 4
    assert room == b"abcdef"
    with pytest.raises(ValueError):
        near.recv_into(room, 7)
    with pytest.raises(ValueError):
        near.recv_into(room, -1)


def test_names_are_looked_up_while_others_run() -> None:
    looking = spawn(socket.getaddrinfo, "localhost", 80, 0, stdlib.SOCK_STREAM)
    beside = [spawn(sleep, 0) for _ in range(2)]
    joinall([looking, *beside])
    family, kind, *_ = looking.get()[0]
    assert isinstance(family, stdlib.AddressFamily) and kind is stdlib.SOCK_STREAM
    assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("name.invalid.", None, flags=stdlib.AI_NUMERICHOST)


def test_waiting_for_descriptors() -> None:
    read, write = os.pipe()
    waiting = spawn(socket.wait_read, read)
    sleep(0)
    assert not waiting.ready()
    os.write(write, b"x")
    waiting.get()
    socket.wait_write(write)
    os.read(read, 1)
    with pytest.raises(TimeoutError):
        socket.wait_read(read, timeout=0.01)
    with pytest.raises(KeyError):
        socket.wait_read(read, timeout=0.01, timeout_exc=KeyError("late"))
    os.close(read)
    os.close(write)


def test_a_socket_has_nothing_that_is_not_its_own() -> None:
    with socket.socket() as made:
        assert not hasattr(made, "__dict__")
        with pytest.raises(AttributeError):
            made.anything = 1  # type: ignore[attr-defined]
        assert made.hub is get_hub()


def test_nothing_is_received_and_sent_at_once(pair: Pair) -> None:
    near, far = pair
    with Timeout(30):
        assert near.recv(0) == b""
        assert near.recv_into(bytearray()) == 0
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                far.send(bytes(1 << 16))
        far.setblocking(True)
        # Though there is no room.
        far.sendall(b"")
    near.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        near.recv(0)
    assert caught.value.errno == errno.EBADF


def test_errors_in_a_queue_of_their_own_are_not_messages() -> None:
    with stdlib.socket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    with socket.socket(stdlib.AF_INET, stdlib.SOCK_DGRAM) as asking:
        recverr = 11  # IP_RECVERR
        asking.setsockopt(stdlib.IPPROTO_IP, recverr, 1)
        asking.connect(address)
        asking.send(b"x")
        for call in (asking.recvfrom, asking.recv):
            with pytest.raises(ConnectionRefusedError):
                call(100)
            asking.send(b"x")
            sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            asking.recvfrom(100)
        asking.settimeout(0.01)
        # What lies in the queue of errors wakes nobody for ever.
        for call in (asking.recvfrom, asking.recv):
            with pytest.raises(TimeoutError):
                call(100)


def test_a_number_that_is_used_again_is_the_new_sockets() -> None:
    near, far = socket.socketpair()
    waiting = spawn(near.recv, 10)
    sleep(0)
    # Behind the socket's back.
    number = near.detach()
    os.close(number)
    far.close()
    new_near, new_far = socket.socketpair()
    with new_near, new_far:
        assert number in (new_near.fileno(), new_far.fileno())
        reader, writer = (new_near, new_far) if new_near.fileno() == number else (new_far, new_near)
        reading = spawn(reader.recv, 10)
        sleep(0)
        writer.sendall(b"new")
        assert reading.get() == b"new"
        with pytest.raises(OSError) as caught:
            waiting.get(timeout=30)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("end", ["close", "kill", "start"])
def test_another_thread_is_heard_by_a_hub_that_sleeps(end: str) -> None:
    deeds: dict[str, Callable[[], object]] = {}
    asleep = threading.Event()
    heard = threading.Event()

    def wait() -> None:
        # Not the main thread's hub, which looks by itself from time to time.
        near, far = socket.socketpair()
        with near, far:
            reading = spawn(near.recv, 10)
            unstarted = Greenlet(lambda: "started")
            sleep(0)
            deeds.update(close=near.close, kill=lambda: reading.kill(block=False), start=unstarted.start)
            get_hub().loop.run_callback(asleep.set)
            # Without a limit: a timer would wake the hub.
            (unstarted if end == "start" else reading).join()
            heard.set()
            reading.kill()
        get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert asleep.wait(30)
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        pass
    deeds[end]()
    assert heard.wait(30)
    thread.join()
