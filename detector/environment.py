"""Names in the environment that other programs use as well, and this machine's own names."""

import ipaddress
import os
import socket
from collections.abc import Sequence

from dotenv import dotenv_values


def variable_read(names: Sequence[str]) -> str | None:
    """Return the variable that decides a setting, as pydantic-settings chooses it; None if none of them is set.

    The environment comes before `.env`, and earlier names before later ones; empty values do not count.
    """
    for source in (os.environ, dotenv_values('.env')):
        present = {variable.upper() for variable, value in source.items() if value}
        found = next((name for name in names if name in present), None)
        if found is not None:
            return found
    return None


def is_own_address(host: str) -> bool:
    """Return True for an address to bind to, and for the name of this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in ('localhost', socket.gethostname().lower())
    return address.is_unspecified or address.is_loopback
