"""Hosts of URLs: which of them is this machine, whom one may speak to without encryption."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def own(host: str | None) -> bool:
    """Whether a host, as urlsplit gives it, is this machine: localhost, 127.0.0.0/8 or ::1. Nothing is resolved."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def encrypted(url: str) -> bool:
    """Whether a URL is https, or http that does not leave this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and parts.scheme in (("https", "http") if own(parts.hostname) else ("https",))
