from pathlib import Path

import pytest

from detector.models.package import ModelPackage, open_package
from detector.models.starter import starter_package


@pytest.fixture(scope='session')
def starter(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """Build the starter model."""
    return open_package(starter_package(Path(tmp_path_factory.mktemp('starter'))))
