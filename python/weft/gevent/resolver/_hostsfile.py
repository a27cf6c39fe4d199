"""The file of hosts that are known without asking anybody. As gevent.resolver._hostsfile."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

__all__ = ["HostsFile"]

_PATH = "/etc/hosts"


class HostsFile:
    """A file of addresses and names, read again by `load()` whenever it has changed.

    `v4` and `v6` have the first address of each name, `aliases` the first name of what has several, `reverse` the first
    name of each address. Names are in lower case.
    """

    def __init__(self, fname: str | None = None) -> None:
        self.fname = fname or _PATH
        self.v4: dict[str, str] = {}
        self.v6: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.reverse: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {}
        self._lines: list[tuple[str, list[str]]] = []
        self._seen: tuple[int, ...] | None = None

    def load(self) -> None:
        """Read the file if it is another one than when it was read last. One that is not there has nothing in it."""
        try:
            status = os.stat(self.fname)
            seen: tuple[int, ...] = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return
            with open(self.fname, encoding="utf-8", errors="replace") as source:
                lines = source.readlines()
        except OSError:
            seen, lines = (), []
        self._seen = seen
        for table in (self.v4, self.v6, self.aliases, self.reverse, self._addresses):
            table.clear()
        self._lines.clear()
        for line in lines:
            self._read(line.partition("#")[0].split())

    def _read(self, words: list[str]) -> None:
        if len(words) < 2:
            return
        try:
            address = ipaddress.ip_address(words[0])
        except ValueError:
            return
        if address.is_link_local and address.version == 6:
            return  # means nothing without the interface
        text = str(address)
        first, *others = names = [name.lower() for name in words[1:]]
        known = self.v4 if address.version == 4 else self.v6
        for name in names:
            known.setdefault(name, text)
            addresses = self._addresses.setdefault(name, [])
            if text not in addresses:
                addresses.append(text)
        for name in others:
            self.aliases.setdefault(name, first)
        self.reverse.setdefault(text, first)
        self._lines.append((text, names))

    def addresses(self, name: str, versions: tuple[int, ...] = (4, 6)) -> list[str]:
        """All addresses of a name, as text; of IPv4, of IPv6, or both."""
        known = self._addresses.get(name.lower().removesuffix("."), [])
        return [text for text in known if (6 if ":" in text else 4) in versions]

    def names(self, address: str, name: str | None = None) -> list[str]:
        """The names on the first line of an address, of those that have the name if one is given; the canonical one first."""
        wanted = None if name is None else name.lower().removesuffix(".")
        return next(
            (
                names
                for known, names in self._lines
                if known == address and (wanted is None or wanted in names)
            ),
            [],
        )

    def iter_all_host_addr_pairs(self) -> Iterator[tuple[str, str]]:
        """Each name with its first address of each kind."""
        self.load()
        yield from self.v4.items()
        yield from self.v6.items()
