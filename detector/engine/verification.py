"""Verification of a package before it is used: its files, its description, its hashes and a trial inference."""

from pathlib import Path

from detector.models import package as model_package
from detector.models.package import ModelPackage
from detector.system.scratch import scratch_folder

from . import trial
from .pose_engine import EngineOptions


def verify(archive: Path, options: EngineOptions | None = None) -> ModelPackage:
    """Verify a package completely, including a trial inference in a child process.

    :param options: how to run it; with a cache, a success is remembered there.
    :return: the description of the package; its folder no longer exists.
    :raises InvalidPackage: names the file or field and the reason.
    :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
    """
    with scratch_folder() as folder:
        package = model_package.unpack_package(archive, folder)
        trial.run(package, options or EngineOptions())
    return package
