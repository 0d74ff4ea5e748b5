import os
from pathlib import Path

import pytest

from benchmarks.support.processes import clean_environment


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))
