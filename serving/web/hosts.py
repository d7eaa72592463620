"""Checks the Host header against this server's names: a page under another name may belong to an attacker."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

_NAME: Final = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?", re.ASCII)
_REMEMBERED: Final = 256


class Hosts:
    """Names, addresses (each with or without a port) and networks; `*` is any host, `*.example.org` any name below it.

    Raises:
        ValueError: for any other entry.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._any = False
        self._exact: set[tuple[str, str]] = set()
        self._below: set[tuple[str, str]] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allowed:
            self._add(entry.strip().lower())
        self.admit = lru_cache(_REMEMBERED)(self._admit)  # clients send few different names

    def _add(self, entry: str) -> None:
        if entry == "*":
            self._any = True
            return
        if "/" in entry:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                raise _unusable(entry) from None
            return
        if entry.count(":") > 1 and not entry.startswith("["):
            entry = f"[{entry}]"
        name, port = _split(entry)
        if not (_NAME.fullmatch(name) or isinstance(_address(name), IPv6Address)):
            raise _unusable(entry)
        if entry.endswith(":") or (port and not (_is_number(port) and int(port) <= 65_535)):
            raise _unusable(entry)
        if name.startswith("*."):
            self._below.add((name[1:], port))
        else:
            self._exact.add((_normal(name), port))

    def _admit(self, host: str) -> bool:
        """Whether a Host header, in lower case, names this server."""
        if self._any:
            return True
        name, port = _split(host)
        if port and not _is_number(port):
            return False
        normal = _normal(name)
        if (normal, "") in self._exact or (normal, port) in self._exact:
            return True
        if any(name.endswith(ending) and name != ending and to in ("", port) for ending, to in self._below):
            return True
        address = _address(name)
        return address is not None and any(address in network for network in self._networks)


def _split(host: str) -> tuple[str, str]:
    """Name and port, which may be empty; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        address, bracket, rest = host.partition("]")
        return (address + bracket, rest[1:]) if rest[:1] in ("", ":") else (host, "")
    name, _, port = host.partition(":")
    return name, port


def _is_number(port: str) -> bool:
    return port.isascii() and port.isdecimal() and len(port) <= 5


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """The IP address in a name (IPv6 in brackets), or None."""
    in_brackets = name.startswith("[") and name.endswith("]")
    try:
        return IPv6Address(name[1:-1]) if in_brackets else IPv4Address(name)
    except ValueError:
        return None


def _normal(name: str) -> str:
    """The name, with an IPv6 address in its canonical form."""
    address = _address(name)
    return f"[{address}]" if isinstance(address, IPv6Address) else name


def _unusable(entry: str) -> ValueError:
    return ValueError(
        f"{entry[:80]!r} is no host to answer to (--allowed-hosts): give a name, *.NAME for all names below it, "
        "an address, either with :PORT for that port alone, a network as in 10.0.0.0/8, or * for every host"
    )
