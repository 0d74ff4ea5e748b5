"""Start time and version of this process, and the time since which the model has been active."""

import time
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

DISTRIBUTION: Final = 'wholebody-pose-node'


def version() -> str | None:
    """Return the version of this software; None if it is not installed as a distribution."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


class Life:
    """The times of one node. Dates are UTC in ISO 8601; durations are independent of changes of the clock."""

    def __init__(self) -> None:
        self.started = _now()
        self.version = version()
        self.model_since: str | None = None
        self._start = time.monotonic()

    def model_serves(self) -> None:
        """Note that another model has begun to serve."""
        self.model_since = _now()

    def about(self) -> dict[str, Any]:
        """Return the version of this software, the start time, and the seconds since the start."""
        uptime = round(time.monotonic() - self._start, 1)
        return {'version': self.version, 'started': self.started, 'uptime_seconds': uptime}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec='seconds')
