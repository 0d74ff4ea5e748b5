"""Installed models: one folder per version under DATA_FOLDER/models, and a link to the current one.

The layout is that of learning_loop_node: `models/<version>/` and the symbolic link `current_model`.
"""

import dataclasses
import logging
import os
import shutil
import tempfile
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from detector.errors import FolderInUse, InvalidPackage
from detector.settings import default_data_folder
from detector.system.folder_lock import locked

from . import package as model_package
from .embedded import EMBEDDED_PACKAGE
from .package import VERSION, ModelPackage, OfferedModel, Verify, file_sha256, open_package

_LINK: Final = 'current_model'
_TEMPORARY: Final = '.install-'
_LOCK_FILE: Final = 'models.lock'
_LOCK_SECONDS: Final = 10.0
"""Time to wait for another process that unpacks a package, in seconds."""

log = logging.getLogger('wholebody.models')


def embedded_package(data_folder: Path | None = None) -> Path:
    """Return the folder of the embedded package, which reads test cards; the first call unpacks it.

    :param data_folder: DATA_FOLDER of the node; by default the user's data folder.

    >>> open_package(embedded_package()).model_version
    'test-card 0.0'
    """
    return ModelStore(data_folder or default_data_folder()).embedded()


def installed_package(data_folder: Path | None = None) -> Path:
    """Return the folder of the current model, or of the embedded package if no model is installed.

    `wholebody model pull` and `wholebody model install` make a model current.

    :param data_folder: DATA_FOLDER of the node; by default the user's data folder.
    :raises InvalidPackage: the current model is missing.

    >>> engine = PoseEngine(open_package(installed_package()))
    """
    return ModelStore(data_folder or default_data_folder()).current_or_embedded()


class ModelStore:
    """The installed models of one data folder.

    Methods that change the models hold a lock file, since a node and a command may work on the folder at the same time.

    :param data_folder: DATA_FOLDER; created with the first write.
    """

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.models = data_folder / 'models'

    @property
    def has_current(self) -> bool:
        """True if a model was ever selected."""
        return (self.data_folder / _LINK).is_symlink()

    def current(self) -> Path | None:
        """Return the folder of the current model, or None if no model was ever selected.

        :raises InvalidPackage: the folder that the link names does not exist.
        """
        link = self.data_folder / _LINK
        if not self.has_current:
            return None
        folder = link.resolve()
        if not folder.is_dir():
            raise InvalidPackage(f'the current model {folder.name} is missing from {self.models}')
        return folder

    def to_start_with(self) -> list[Path]:
        """Return the folders to try when a node starts: the current model, then the others, latest first.

        The embedded model is returned only if no model was ever selected. Otherwise it would hide that a real one is
        missing.
        """
        if not self.has_current:
            return [self.embedded()]
        current = (self.data_folder / _LINK).resolve()
        others = [self.folder(version).resolve() for version in self.versions()]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        return [current, *(folder for folder in others if folder != current)]

    def installed(self) -> list[ModelPackage | InvalidPackage]:
        """Return every installed model, sorted by version; for a broken one the error that gives the reason."""
        found: list[ModelPackage | InvalidPackage] = []
        for version in self.versions():
            try:
                found.append(open_package(self.folder(version)))
            except InvalidPackage as error:
                found.append(InvalidPackage(f'{version}: {error}'))
        return found

    def versions(self) -> list[str]:
        """Return the installed versions in ascending order, broken ones included."""
        if not self.models.is_dir():
            return []
        names = (folder.name for folder in self.models.iterdir() if folder.is_dir())
        known = (name for name in names if VERSION.fullmatch(name))
        return sorted(known, key=lambda version: [int(part) for part in version.split('.')])

    def folder(self, version: str) -> Path:
        """Return the folder of a version, whether it is installed or not."""
        return self.models / version

    def install(self, archive: Path, *, verify: Verify, replace: bool = False) -> ModelPackage:
        """Verify a package completely, install it and make it current.

        :param verify: `detector.engine.verification.verify`, with the options of this machine.
        :param replace: True to replace an installed model of the same version.
        :raises InvalidPackage: the package is not valid, or its version is already installed.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        """
        version = verify(archive).version
        if self.folder(version).exists() and not replace:
            raise InvalidPackage(f'version {version} is already installed; use --replace to install over it')
        package = self.add(archive)
        self.select(version)
        return package

    def add(self, archive: Path, offered: OfferedModel | None = None) -> ModelPackage:
        """Unpack a package into the folder of its version and replace what is there. No inference is run.

        Each network is hashed once.

        :param offered: version and id in the Loop, which take precedence over `model.json`.
        :raises InvalidPackage: names the file or field and the reason.
        :raises FolderInUse: another process changes the models.
        """
        self.models.mkdir(parents=True, exist_ok=True)
        with self._changing(), tempfile.TemporaryDirectory(dir=self.models, prefix=_TEMPORARY) as temporary:
            fresh = Path(temporary) / 'new'
            fresh.mkdir()
            package = model_package.unpack_package(archive, fresh)
            if offered is not None:
                if offered.version != package.version:
                    log.warning('the package of model %s names the version %s', offered.version, package.version)
                package = model_package.set_identity(package, offered)
            target = self.folder(package.version)
            if target.exists():
                target.rename(Path(temporary) / 'old')
            fresh.rename(target)
        return dataclasses.replace(package, folder=target)

    def remove(self, version: str) -> None:
        """Remove a version if it is installed."""
        if self.folder(version).is_dir():
            with self._changing():
                doomed = self.models / f'{_TEMPORARY}{uuid.uuid4().hex}'
                self.folder(version).rename(doomed)  # atomic: a killed process leaves no half-removed model
                shutil.rmtree(doomed, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Remove the oldest installed versions until `keep` are left. The current one always stays."""
        current = (self.data_folder / _LINK).resolve().name
        versions = sorted(self.versions(), key=lambda version: self.folder(version).stat().st_mtime)
        removable = [version for version in versions if version != current]
        for version in removable[: max(0, len(versions) - keep)]:
            log.info('removing the old model %s', version)
            self.remove(version)

    def clean(self) -> None:
        """Remove the leftovers of killed processes, unless another process is changing the models now."""
        try:
            with self._changing(seconds=0):
                for leftover in self.models.glob(f'{_TEMPORARY}*'):
                    shutil.rmtree(leftover, ignore_errors=True)
                for link in self.data_folder.glob(f'.{_LINK}.*'):
                    link.unlink(missing_ok=True)
        except FolderInUse as error:
            log.warning('leftovers of earlier installations are not removed: %s', error)

    def _changing(self, *, seconds: float | None = None) -> AbstractContextManager[None]:
        return locked(self.data_folder / _LOCK_FILE, seconds=_LOCK_SECONDS if seconds is None else seconds)

    def download_path(self, name: str) -> Path:
        """Return the file to download a package to. Interrupted downloads stay beside it and are resumed."""
        folder = self.data_folder / 'downloads'
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f'{name}.zip'

    def select(self, version: str) -> None:
        """Make an installed version the current model."""
        link = self.data_folder / f'.{_LINK}.{uuid.uuid4().hex}'
        link.symlink_to(Path('models') / version)
        os.replace(link, self.data_folder / _LINK)

    def embedded(self) -> Path:
        """Return the folder of the embedded model; the first call unpacks it."""
        target = self.data_folder / 'embedded' / file_sha256(EMBEDDED_PACKAGE)[:12]
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix='.unpack-'))
        try:
            model_package.unpack_package(EMBEDDED_PACKAGE, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def open(self, model: Path | None, scratch: Path) -> ModelPackage:
        """Open the model that a command works with.

        :param model: a package, as a zip or a folder; None for the current model, or the embedded one without it.
        :param scratch: an empty folder; a zip is unpacked into it.
        :raises InvalidPackage: names the file or field and the reason.
        """
        if model is None:
            return open_package(self.current_or_embedded())
        return open_package(model) if model.is_dir() else model_package.unpack_package(model, scratch)

    def current_or_embedded(self) -> Path:
        """Return the folder of the current model, or of the embedded one if no model was ever selected.

        :raises InvalidPackage: the current model is missing.
        """
        return self.current() or self.embedded()
