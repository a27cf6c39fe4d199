"""CPython's tests of concurrent.futures under the start method spawn; child processes import this too."""

import cf_impl

cf_impl.install(globals(), "spawn")
