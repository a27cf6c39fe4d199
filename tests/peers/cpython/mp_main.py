"""CPython's tests of what `__main__` is in child processes, under all start methods."""

import mp_impl
from test import test_multiprocessing_main_handling as cpython
from test.support import reap_children as tearDownModule  # noqa: F401  (unittest calls it)

mp_impl.check()


# Classes of their own: they are then known by the name of this module.
class SpawnCmdLineTest(cpython.SpawnCmdLineTest):
    pass


class ForkCmdLineTest(cpython.ForkCmdLineTest):
    pass


class ForkServerCmdLineTest(cpython.ForkServerCmdLineTest):
    pass
