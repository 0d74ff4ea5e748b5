"""Verification of a package before it is used: its files, its description, its hashes and a trial inference."""

import tempfile
from pathlib import Path

from detector.models import package as model_package
from detector.models.package import ModelPackage

from .pose_engine import EngineOptions, PoseEngine


def verify(archive: Path, options: EngineOptions | None = None) -> ModelPackage:
    """Verify a package completely, including a trial inference.

    :return: the description of the package; its folder no longer exists.
    :raises InvalidPackage: names the file or field and the reason.
    :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
    """
    with tempfile.TemporaryDirectory(prefix='wholebody-') as folder:
        package = model_package.unpack_package(archive, Path(folder))
        PoseEngine(package, options).check()
    return package
