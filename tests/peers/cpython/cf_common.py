"""CPython's tests of concurrent.futures under no start method, or several."""

import cf_impl

cf_impl.install(globals(), cf_impl.COMMON)
