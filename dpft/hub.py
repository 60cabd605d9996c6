"""Is the model and dataset hub in reach? Asked once, quickly, before any library starts to retry for minutes.

A hub that is out of reach is an ordinary state (no network, offline mode, a firewall), not a failure: what
is in the local cache is then used, and what is not leads to one clear error.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

__all__ = ["ENDPOINT", "in_reach", "out_of_reach_because"]

ENDPOINT = "https://huggingface.co"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def out_of_reach_because(timeout: float = 3.0) -> str:
    """Why the hub cannot be asked, in a few words; empty if a connection can be made.

    Behind a proxy nothing is probed: the proxy knows better.

    Args:
        timeout: seconds to wait for a connection.
    """
    for variable in _OFFLINE:
        if os.environ.get(variable, "").upper() in _TRUE:
            return f"{variable} is set"
    if any(os.environ.get(variable) for variable in _PROXIES):
        return ""
    address = urlsplit(os.environ.get("HF_ENDPOINT", ENDPOINT))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=timeout):
            return ""
    except OSError as error:
        return f"no connection to {address.hostname} ({error.strerror or error})"


def in_reach(timeout: float = 3.0) -> bool:
    """Whether the hub can be asked; see :func:`out_of_reach_because`."""
    return not out_of_reach_because(timeout)
