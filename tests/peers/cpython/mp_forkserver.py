"""CPython's tests of multiprocessing under the start method forkserver; child processes import this too."""

import mp_impl
from test._test_multiprocessing import install_tests_in_module_dict

mp_impl.check()
install_tests_in_module_dict(globals(), "forkserver")
