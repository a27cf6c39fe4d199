"""Ends of pipes and descriptors on their way to other processes, and what else travels over them."""

from __future__ import annotations

import os
from multiprocessing import process, reduction, resource_sharer
from typing import Any

import passing
import pytest
import weft.multiprocessing
from weft.multiprocessing.connection import Client, Listener, Pipe

METHODS = ("fork", "spawn", "forkserver")
LARGE = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def own_folder(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the standard library puts the sockets of this process, which else would stay until its end."""
    monkeypatch.setitem(process.current_process()._config, "tempdir", str(tmp_path))


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    return weft.multiprocessing.get_context(request.param)


def test_to_a_child(context: Any) -> None:
    here, there = Pipe()
    child = context.Process(target=passing.answer, args=(there,))
    child.start()
    there.close()
    with here:
        for message in (1, "two", LARGE, [LARGE, {3: 4.5}]):
            here.send(message)
            assert here.recv() == message
        here.send(None)
    child.join()
    assert child.exitcode == 0


def test_over_a_connection(context: Any) -> None:
    here, there = Pipe()
    child = context.Process(target=passing.pass_on, args=(there,))
    child.start()
    there.close()
    with here:
        for _ in range(3):
            near, far = Pipe()
            near.send(LARGE)  # on its way when the end is passed on
            here.send(far)
            far.close()
            with near:
                assert near.recv() == LARGE
                near.send([LARGE])
                assert near.recv() == [LARGE]
        with Listener() as listener:
            client = Client(listener.address)
            here.send(client)
            client.close()
            with listener.accept() as accepted:
                accepted.send(LARGE)
                assert accepted.recv() == LARGE
        here.send(None)
    child.join()
    assert child.exitcode == 0
    resource_sharer.stop()


def test_duplicates_of_descriptors(context: Any) -> None:
    class Carrier:
        """Pickled while the child is being started, as reducers of other packages do it."""

        def __reduce__(self) -> Any:
            return as_it_is, (reduction.DupFd(writing),)

    reading, writing = os.pipe()
    child = context.Process(
        target=passing.write_to, args=(Carrier() if context._name != "fork" else Fake(writing),)
    )
    child.start()
    os.close(writing)
    assert os.read(reading, 100) == b"written by a child"
    os.close(reading)
    child.join()
    assert child.exitcode == 0


def as_it_is(thing: Any) -> Any:
    return thing


class Fake:
    """What a forked child needs no duplicate of."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def detach(self) -> int:
        return self.descriptor


def test_handles(context: Any) -> None:
    here, there = Pipe()
    child = context.Process(target=passing.send_descriptor, args=(there,))
    child.start()
    there.close()
    with here:
        descriptor = reduction.recv_handle(here)
        assert os.read(descriptor, 100) == b"through a handle"
        os.close(descriptor)
        here.send("done")
    child.join()
    assert child.exitcode == 0


class Tensor:
    """What another package registers a reducer for."""

    def __init__(self, values: list[int]) -> None:
        self.values = values


def rebuild(values: list[int]) -> Tensor:
    return Tensor([value + 1 for value in values])


def test_reducers_that_are_registered_later() -> None:
    one, other = Pipe()
    with one, other:
        one.send(Tensor([1]))
        assert other.recv().values == [1]
        reduction.register(Tensor, lambda tensor: (rebuild, (tensor.values,)))
        one.send(Tensor([1]))
        assert other.recv().values == [2]


def test_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    one, other = Pipe()
    with one, other:
        for size in (3, 100_000):
            sent = numpy.arange(size, dtype="i8").reshape(1, -1)
            one.send(sent)
            got = other.recv()
            assert (got == sent).all() and got.flags.writeable
            got[:] = 0
