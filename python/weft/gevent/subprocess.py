"""The place of gevent.subprocess, which is not there yet."""

from ._missing import missing

raise missing(__name__, "child processes whose pipes are waited for")
