"""Which version of a rival was measured, also of what is no package."""

from __future__ import annotations

import platform
from importlib.metadata import version

# asyncio is the interpreter's. A server in C is what the kernel costs.
NO_PACKAGES = {
    "CPython": platform.python_version,
    "asyncio": platform.python_version,
    "C epoll": platform.release,
}


def version_of(package: str) -> str:
    known = NO_PACKAGES.get(package)
    return known() if known is not None else version(package)
