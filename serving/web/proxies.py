"""X-Forwarded headers of trusted reverse proxies."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

Network = IPv4Network | IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks from a comma-separated list.

    Raises:
        ValueError: with the entry that is neither.
    """
    found = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(entry))
        except ValueError as error:
            raise ValueError(
                f"{entry!r} is not an address or a network of addresses, as in 10.0.0.7 or 10.0.0.0/8"
            ) from error
    return tuple(found)


class Forwarded:
    """Takes host, scheme and client from the X-Forwarded headers of trusted proxies only."""

    def __init__(self, app: ASGIApp, proxies: Sequence[Network]) -> None:
        self._app = ProxyHeadersMiddleware(app, trusted_hosts=[str(network) for network in proxies])  # type: ignore[arg-type]
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on with the host, scheme and address that the client used."""
        if scope["type"] in ("http", "websocket") and self._trusts(scope):
            given = dict(scope["headers"])
            if host := given.get(b"x-forwarded-host"):
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [*others, (b"host", host.partition(b",")[0].strip())]}
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    def _trusts(self, scope: Scope) -> bool:
        try:
            peer = ip_address(scope["client"][0])
        except (TypeError, ValueError):  # a Unix socket has no address
            return False
        return any(peer in network for network in self._proxies)
