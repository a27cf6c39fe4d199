"""Makes every interpreter of a run print its threads' stacks at SIGRTMAX, for the watchdog.

The interpreter imports this by its name when it starts; forked children inherit what it does.
"""

import faulthandler
import signal
import sys

if sys.stderr is not None:
    faulthandler.register(signal.SIGRTMAX, all_threads=True)
