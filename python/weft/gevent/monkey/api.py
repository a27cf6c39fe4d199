"""What patches of one's own are made with. As gevent.monkey.api."""

from __future__ import annotations

from . import get_original, patch_item, patch_module, remove_item

__all__ = ["get_original", "patch_item", "patch_module", "remove_item"]
