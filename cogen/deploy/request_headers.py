"""The headers of a request: each once, none that contradicts another, and only those that SuperLink needs go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cogen.deploy.known_keys import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER
from cogen.deploy.limits import HttpRefusal

FORWARDED = {KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, "accept", "content-type"}
FORWARDED |= {"flwr-package-name", "flwr-package-version", "flwr-component-name"}
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"}
HOP_BY_HOP |= {"transfer-encoding", "upgrade", "host", "server", "date", "expect"}


def single_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by name.

    Two parts of a chain may act on different ones of two equal headers, or of two lengths; so there is no such request.

    Raises:
        HttpRefusal: 400 for a header that is there twice or two lengths, 415 for a compressed body.
    """
    found: dict[str, str] = {}
    for name, value in raw:
        key = name.decode("latin-1").lower()
        if key in found:
            raise HttpRefusal(400)
        found[key] = value.decode("latin-1")
    if "content-length" in found and "transfer-encoding" in found:
        raise HttpRefusal(400)
    if found.get("transfer-encoding", "chunked").lower() != "chunked":
        raise HttpRefusal(400)
    if found.get("content-encoding", "identity").lower() != "identity":
        raise HttpRefusal(415)
    return found


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a node's request that SuperLink gets."""
    return {name: value for name, value in headers.items() if name in FORWARDED}
