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
from .embedded import EMBEDDED_PACKAGE, STARTER_NAME, TEST_CARD_NAME, embedded_name
from .package import VERSION, ModelPackage, OfferedModel, Verify, file_sha256, open_package

_LINK: Final = 'current_model'
_TEMPORARY: Final = '.install-'
_LOCK_FILE: Final = 'models.lock'
_LOCK_SECONDS: Final = 10.0
"""Time to wait for another process that unpacks a package, in seconds."""

MODEL_REMEDY: Final = 'install one with `wholebody model pull` or `wholebody model install`'
"""What to do if the current model is missing or broken."""

log = logging.getLogger('wholebody.models')


def embedded_package(data_folder: Path | None = None) -> Path:
    """Return the folder of the test card model, which reads test cards; the first call unpacks it.

    :param data_folder: DATA_FOLDER of the node; by default the user's data folder.

    >>> open_package(embedded_package()).model_version
    'test-card 0.0'
    """
    return ModelStore(data_folder or default_data_folder()).embedded(TEST_CARD_NAME).folder


def installed_package(data_folder: Path | None = None) -> Path:
    """Return the folder of the current model, or of the starter model if no model is installed.

    `wholebody model pull` and `wholebody model install` make a model current.

    :param data_folder: DATA_FOLDER of the node; by default the user's data folder.
    :raises InvalidPackage: the current model is missing.
    :raises StarterUnavailable: no model is installed, and the starter model cannot be built.

    >>> engine = PoseEngine(open_package(installed_package()))
    """
    return ModelStore(data_folder or default_data_folder()).current_or_embedded(STARTER_NAME).folder


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
        """True if a model was ever selected, even if its folder is gone."""
        link = self.data_folder / _LINK
        return link.is_symlink() or link.exists()  # a copy of a data folder may hold the folder instead of the link

    def current(self) -> Path | None:
        """Return the folder of the current model, or None if no model is installed.

        :raises InvalidPackage: the folder that the link names does not exist, or models are installed without a link.
        """
        folder = (self.data_folder / _LINK).resolve()
        if self.has_current and not folder.is_dir():
            raise InvalidPackage(f'the current model {folder.name} is missing from {self.models}: {MODEL_REMEDY}')
        if not self.has_current and (versions := self.versions()):
            raise InvalidPackage(
                f'none of the models {", ".join(versions)} in {self.models} is current: {MODEL_REMEDY}'
            )
        return folder if self.has_current else None

    def to_start_with(self) -> list[Path]:
        """Return the folders to try when a node starts: the current model, then the others, latest first.

        The list is empty only if no model is installed and none was ever selected. Only then may an embedded model
        serve: it would hide that a real one is missing or broken.
        """
        current = [(self.data_folder / _LINK).resolve()] if self.has_current else []
        others = [self.folder(version).resolve() for version in self.versions()]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        return [*current, *(folder for folder in others if folder not in current)]

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

    def embedded(self, name: str) -> ModelPackage:
        """Open an embedded model. The first call builds or unpacks it, and a damaged one is made again.

        :param name: one of `EMBEDDED_NAMES`.
        :raises StarterUnavailable: the starter model cannot be built; the text names the remedy.
        :raises FolderInUse: another process changes the models.
        """
        if name == STARTER_NAME:
            from .starter import starter_package  # imports slowly

            return open_package(starter_package(self.data_folder))
        try:
            return open_package(_unpacked_test_card(self.data_folder))
        except InvalidPackage as error:
            log.warning('the test card model is damaged (%s) and unpacked again', error)
        with self._changing():
            shutil.rmtree(_unpacked_test_card(self.data_folder))
            return open_package(_unpacked_test_card(self.data_folder))

    def open(self, model: Path | None, scratch: Path, *, mode: str) -> ModelPackage:
        """Open the model that a command works with.

        :param model: a package, as a zip or a folder; None for the current model, or the embedded one without it.
        :param scratch: an empty folder; a zip is unpacked into it.
        :param mode: see `current_or_embedded`.
        :raises InvalidPackage: names the file or field and the reason.
        :raises StarterUnavailable: no model is installed, and the starter model cannot be built.
        """
        if model is None:
            return self.current_or_embedded(mode)
        return open_package(model) if model.is_dir() else model_package.unpack_package(model, scratch)

    def current_or_embedded(self, mode: str) -> ModelPackage:
        """Open the current model, or an embedded one if no model is installed.

        :param mode: value of MODE, which names the embedded one.
        :raises InvalidPackage: the current model is missing or broken.
        :raises StarterUnavailable: no model is installed, and the starter model cannot be built.
        """
        current = self.current()
        if current is None:
            return self.embedded(embedded_name(mode))
        return open_package(current)


def _unpacked_test_card(data_folder: Path) -> Path:
    target = data_folder / 'embedded' / file_sha256(EMBEDDED_PACKAGE)[:12]
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
