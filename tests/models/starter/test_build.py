"""The package of the starter model is built once per data folder."""

import sys
from pathlib import Path

import pytest

from detector.models.starter import StarterUnavailable, starter_package


def test_a_missing_distribution_is_an_honest_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the distribution nothing is built, and the error names it and the remedy."""
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    with pytest.raises(StarterUnavailable, match='mediapipe, which is not installed; .*`uv '):
        starter_package(tmp_path / 'data')
    assert not (tmp_path / 'data').exists()
