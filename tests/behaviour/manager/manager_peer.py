"""A manager's server, or a client of it: run by an interpreter with or without weft.

manager_peer.py serve FAMILY    prints the address, and serves until its standard input ends
manager_peer.py use ADDRESS     makes calls of all kinds, and prints `good`
"""

import json
import multiprocessing
import queue
import sys
import threading
from multiprocessing.managers import BaseManager, DictProxy, IteratorProxy, ListProxy, NamespaceProxy


class Thing:
    def __init__(self, value=0):
        self.value = value

    def up(self, by=1):
        self.value += by
        return self.value

    def fail(self):
        raise LookupError("as told")


class Manager(BaseManager):
    pass


table = {}
Manager.register("table", lambda: table, DictProxy)
Manager.register("items", list, ListProxy)
Manager.register("queue", queue.Queue)
Manager.register("names", multiprocessing.managers.Namespace, NamespaceProxy)
Manager.register("thing", Thing)
Manager.register("Iterator", proxytype=IteratorProxy, create_method=False)


def serve(family):
    address = ("127.0.0.1", 0) if family == "AF_INET" else None
    server = Manager(address, b"key").get_server()
    print(json.dumps(server.address), flush=True)
    thread = threading.Thread(target=lambda: (sys.stdin.read(), server.stop_event.set()), daemon=True)
    server.stop_event = threading.Event()
    thread.start()
    server.serve_forever()


def use(address):
    multiprocessing.current_process().authkey = b"key"
    manager = Manager(tuple(address) if isinstance(address, list) else address, b"key")
    manager.connect()
    table, items, q = manager.table(), manager.items([1, 2]), manager.queue()
    table["x"] = {"deep": [1, (2.5, None)]}
    assert table["x"] == {"deep": [1, (2.5, None)]}
    assert sorted(table.keys()) == ["x"]
    assert list(table) == ["x"]
    items.append(3)
    assert list(items) == [1, 2, 3] and len(items) == 3 and str(items) == "[1, 2, 3]"
    table["items"] = items
    table["items"].append(4)
    assert items[:] == [1, 2, 3, 4]
    q.put("put")
    assert q.get() == "put"
    try:
        q.get(timeout=0.01)
    except queue.Empty:
        pass
    else:
        raise AssertionError("it was empty")
    names = manager.names(a=1)
    names.b = 2
    assert (names.a, names.b) == (1, 2)
    thing = manager.thing(5)
    assert thing.up() == 6 and thing.up(by=4) == 10
    for call, error in ((thing.fail, LookupError), (lambda: table["nothing"], KeyError)):
        try:
            call()
        except error:
            pass
        else:
            raise AssertionError("nothing was raised")
    table["large"] = b"x" * 3_000_000
    assert table["large"] == b"x" * 3_000_000
    table.clear()
    print("good")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        use(json.loads(sys.argv[2]))
