"""Since when a node lives."""

import tomllib
from datetime import UTC, datetime, timedelta

from benchmarks.support.processes import PROJECT
from detector.observability.life import Life


def test_times_and_version() -> None:
    """The start is UTC, the model has none until one serves, the version is that of the project."""
    life = Life()
    assert life.model_since is None
    life.model_serves()
    about = life.about()
    for date in (about['started'], life.model_since):
        assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(date) < timedelta(minutes=1)
    assert 0 <= about['uptime_seconds'] < 60
    assert about['version'] == tomllib.loads((PROJECT / 'pyproject.toml').read_text())['project']['version']
