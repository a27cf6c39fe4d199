"""The native module. What programs see of it is documented at the faces."""

from weft.greenlet import _greenlet as _greenlet

__version__: str
