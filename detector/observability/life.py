"""Since when this process lives and its model serves, and which version of this software it is."""

import time
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

DISTRIBUTION: Final = 'wholebody-pose-node'


def version() -> str | None:
    """Of this software; None if it runs without being installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


class Life:
    """The times of one node; dates are UTC, ISO 8601, durations do not follow jumps of the clock."""

    def __init__(self) -> None:
        self.started = _now()
        self.version = version()
        self.model_since: str | None = None
        self._start = time.monotonic()

    def model_serves(self) -> None:
        """Another model has begun to serve."""
        self.model_since = _now()

    def about(self) -> dict[str, Any]:
        """Version of this software, start, and seconds since then."""
        uptime = round(time.monotonic() - self._start, 1)
        return {'version': self.version, 'started': self.started, 'uptime_seconds': uptime}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec='seconds')
