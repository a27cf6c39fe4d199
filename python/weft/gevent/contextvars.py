"""The module `contextvars`: each greenlet has a context of its own as it is. As gevent.contextvars."""

from __future__ import annotations

from contextvars import Context, ContextVar, Token, copy_context

__imports__ = ["Context", "ContextVar", "Token", "copy_context"]
__all__ = ["Context", "ContextVar", "Token", "copy_context"]
