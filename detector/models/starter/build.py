"""Build of the starter model's package, once per data folder.

The folder's name is a hash of everything that the package is made of, this code included, so an update builds anew.
"""

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from detector.errors import InvalidPackage, StarterUnavailable
from detector.models.embedded import MODEL_FILES, STARTER_NAME
from detector.models.package import Wholebody, open_package
from detector.models.packing import Identity, describe_detector, describe_estimator, package_files
from detector.system.folder_lock import locked
from detector.system.scratch import scratch_folder

from .sources import DISTRIBUTION, LICENCE, NETWORKS, installed_version, read_licence

STARTER_VERSION: Final = '0.1'
PERSON_DETECTOR: Final = Path(__file__).with_name('person_detector.onnx')
"""The project's own person detector."""
SCORE_THRESHOLD: Final = 0.6
"""Lowest confidence of a person's box; see the model card."""
SCORE_MAPPING: Final = ((0.0, 0.0), (0.1, 0.15), (0.3, 0.4), (0.6, 0.65), (0.9, 0.76), (0.98, 0.85), (1.0, 0.95))
"""Confidence by the estimator's raw score: about the share that is right; see the model card."""

_LOCK_SECONDS: Final = 60.0
"""Time to wait for another process that builds the package, in seconds."""
_KEPT: Final = 3
"""Number of builds that are kept, since several versions of this project may share a data folder."""
_PREFIX: Final = '.build-'

log = logging.getLogger('wholebody.models')

_temporary: dict[Path, Path] = {}
"""Temporary folders by the folders that could not be written; they are removed when the process ends."""


def starter_package(data_folder: Path) -> Path:
    """Return the folder of the starter model's package; the first call builds it below the data folder.

    An image carries a package that was built with it. If the data folder cannot be written, the package is built in a
    temporary folder, which is removed when the process ends.

    :raises StarterUnavailable: what it is built from is missing or differs; the text names the remedy.
    :raises FolderInUse: another process has been building it for a minute.
    """
    key = _key()
    builds = data_folder / STARTER_NAME
    known = (MODEL_FILES / STARTER_NAME / key, builds / key, _temporary.get(builds / key))
    for folder in known:
        if folder is not None and _is_sound(folder):
            return folder
    installed_version()  # raises before anything is written
    try:
        with locked(builds / 'build.lock', seconds=_LOCK_SECONDS):
            if not _is_sound(builds / key):
                _build(builds, key)
                _prune(builds, key)
        return builds / key
    except OSError as error:
        log.warning(
            '%s cannot be written (%s): the starter model is built in a temporary folder, and anew by the next process',
            builds,
            error.strerror,
        )
    _temporary[builds / key] = _build_temporary(key)
    return _temporary[builds / key]


def build_starter(builds: Path) -> Path:
    """Build the package into a folder of packages that an image carries, and return its folder.

    :raises StarterUnavailable: what it is built from is missing or differs.
    """
    builds.mkdir(parents=True, exist_ok=True)
    _build(builds, _key())
    return builds / _key()


def _key() -> str:
    """Return a hash of the networks' hashes, the person detector and the code of this folder."""
    digest = hashlib.sha256()
    for network in NETWORKS:
        digest.update(network.sha256.encode())
    for path in (PERSON_DETECTOR, *sorted(Path(__file__).parent.glob('*.py'))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _is_sound(folder: Path) -> bool:
    """Return True if a build exists and its files have their hashes."""
    if not folder.is_dir():
        return False
    try:
        open_package(folder)
    except InvalidPackage as error:
        log.warning('%s is built again: %s', folder, error)
        return False
    return True


def _build(builds: Path, key: str) -> None:
    """Build the package in a folder of its own, and rename that when all is on the disk."""
    start = time.monotonic()
    partial = Path(tempfile.mkdtemp(dir=builds, prefix=_PREFIX))
    try:
        _write_package(partial)
        target = builds / key
        shutil.rmtree(target, ignore_errors=True)  # a damaged build
        partial.chmod(0o755)
        partial.rename(target)
    except OSError:
        if not _is_sound(builds / key):  # otherwise another process was faster, on a file system without locks
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info('the starter model was built in %.1f s: %s', time.monotonic() - start, builds / key)


def _build_temporary(key: str) -> Path:
    try:
        scratch = ExitStack()
        builds = scratch.enter_context(scratch_folder())
        atexit.register(scratch.close)
        _build(builds, key)
    except OSError as error:
        raise StarterUnavailable(
            'the starter model needs 30 MB of disk space in DATA_FOLDER or in the folder of temporary files '
            f'({tempfile.gettempdir()}), and neither can be written: {error.strerror}'
        ) from error
    return builds / key


def _write_package(folder: Path) -> None:
    """Write the files of the package, with the licence of the networks.

    :raises StarterUnavailable: what it is built from is missing or differs.
    """
    from .estimator import build_estimator  # the converter's libraries are needed for the first start only

    licence = read_licence()
    version = installed_version()
    estimator = folder / 'pose.onnx'
    estimator.write_bytes(build_estimator().SerializeToString(deterministic=True))
    wholebody = Wholebody(
        name=STARTER_NAME,
        detector=describe_detector(PERSON_DETECTOR, 'BGR', SCORE_THRESHOLD),
        estimator=describe_estimator(estimator, 'RGB'),
        precision='f32',  # coordinates are computed inside the graph
        score_mapping=list(SCORE_MAPPING),
        origin=f'person detector: this project; pose estimator: built from networks of {DISTRIBUTION} {version}',
        licence=LICENCE,
    )
    files = package_files(
        detector=PERSON_DETECTOR,
        estimator=estimator,
        wholebody=wholebody,
        identity=Identity(version=STARTER_VERSION),
    )
    files |= {'LICENSE': licence.encode(), 'NOTICE': _notice(version).encode()}
    for name, content in files.items():
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content != path:
            shutil.copyfile(content, path)
        with path.open('rb') as file:
            os.fsync(file.fileno())  # a robot may lose power at any moment


def _notice(version: str) -> str:
    networks = '\n'.join(f'- mediapipe/modules/{network.path} (sha256 {network.sha256})' for network in NETWORKS)
    return (
        f'pose.onnx contains the weights of these networks of MediaPipe {version}, Copyright The MediaPipe Authors,\n'
        f'licensed under the Apache License 2.0 (see LICENSE):\n{networks}\n'
        'Their form was changed: they were converted to ONNX and composed into one graph.\n'
    )


def _prune(builds: Path, key: str) -> None:
    """Remove what killed processes left, and the oldest builds."""
    for leftover in builds.glob(f'{_PREFIX}*'):
        shutil.rmtree(leftover, ignore_errors=True)
    others = [folder for folder in builds.iterdir() if folder.is_dir() and folder.name != key]
    others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in others[_KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
