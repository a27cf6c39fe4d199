"""The place of gevent.fileobject, which is not there yet."""

from ._missing import missing

raise missing(__name__, "files that are waited for")
