"""The start time of a node."""

import tomllib
from datetime import UTC, datetime, timedelta

from benchmarks.support.processes import PROJECT
from detector.observability.life import Life


def test_times_and_version() -> None:
    """The start is UTC, the model has no time until one is active, and the version is the project's."""
    life = Life()
    assert life.model_since is None
    life.model_serves()
    about = life.about()
    assert life.model_since is not None
    for date in (about['started'], life.model_since):
        assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(date) < timedelta(minutes=1)
    assert 0 <= about['uptime_seconds'] < 60
    assert about['version'] == tomllib.loads((PROJECT / 'pyproject.toml').read_text())['project']['version']
