"""CPython's tests of concurrent.futures under the start method fork; child processes import this too."""

import cf_impl

cf_impl.install(globals(), "fork")
