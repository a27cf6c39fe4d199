"""The place of gevent.pywsgi, which is not there yet."""

from ._missing import missing

raise missing(__name__, "a WSGI server")
