"""Installed models: one folder per version under DATA_FOLDER/models, and a link to the current one.

The layout is that of learning_loop_node: `models/<version>/` and the symbolic link `current_model`.
"""

import dataclasses
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from detector.errors import FolderInUse, InvalidPackage
from detector.settings import default_data_folder
from detector.system.durable import exchange, sync_folder
from detector.system.folder_lock import locked

from . import package as model_package
from .embedded import EMBEDDED_PACKAGE, STARTER_NAME, TEST_CARD_FOLDER, TEST_CARD_NAME, embedded_name
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
        self.link = data_folder / _LINK
        """The link to the current version."""

    @property
    def has_current(self) -> bool:
        """True if a model was ever selected, even if its folder is gone."""
        return os.path.lexists(self.link)  # a copy of a data folder may hold the folder instead of the link

    @property
    def is_linked(self) -> bool:
        """True if there is a link to the current version, and its folder exists."""
        return self.link.is_symlink() and self.linked().is_dir()

    def linked(self) -> Path:
        """Return the folder that the link names, which may be missing; the path of the link if it leads nowhere."""
        return Path(os.path.realpath(self.link))  # unlike `resolve`, it accepts a link to itself

    def current(self) -> Path | None:
        """Return the folder of the current model, or None if no model is installed.

        :raises InvalidPackage: the folder that the link names does not exist, or models are installed without a link.
        """
        folder = self.linked()
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
        current = [self.linked()] if self.has_current else []
        others = [self.folder(version).resolve() for version in self.versions()]
        others.sort(key=_modified, reverse=True)
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

    def add(
        self,
        archive: Path,
        offered: OfferedModel | None = None,
        *,
        before_replacing: Callable[[ModelPackage], object] = lambda _: None,
    ) -> ModelPackage:
        """Unpack a package into the folder of its version and replace what is there.

        Each network is hashed once.

        :param offered: version and id in the Loop, which take precedence over `model.json`.
        :param before_replacing: called with the unpacked package if it is about to replace another one. If it raises an
            error, that one stays.
        :raises InvalidPackage: names the file or field and the reason.
        :raises FolderInUse: another process changes the models.
        """
        with self._changing(), self._scratch() as scratch:
            fresh = scratch / 'new'
            fresh.mkdir()
            package = model_package.unpack_package(archive, fresh)
            if offered is not None:
                if offered.version != package.version:
                    log.warning('the package of model %s names the version %s', offered.version, package.version)
                package = model_package.set_identity(package, offered)
            if os.path.lexists(self.folder(package.version)):
                before_replacing(package)
            sync_folder(fresh)
            self._put(fresh, package.version, scratch)
        return dataclasses.replace(package, folder=self.folder(package.version))

    def _put(self, fresh: Path, version: str, scratch: Path) -> None:
        """Move a complete package to the folder of its version. Another one that is there is left in `scratch`."""
        target = self.folder(version)
        if not os.path.lexists(target):
            fresh.rename(target)
        elif not exchange(fresh, target):
            target.rename(scratch / version)  # `_discard` puts it back if the next step does not follow
            fresh.rename(target)
        sync_folder(self.models)

    def remove(self, version: str) -> None:
        """Remove a version if it is installed."""
        if self.folder(version).is_dir():
            with self._changing():
                self._delete(self.folder(version))

    def _delete(self, folder: Path) -> None:
        doomed = self.models / f'{_TEMPORARY}{uuid.uuid4().hex}'
        folder.rename(doomed)  # atomic: a killed process leaves no half-removed model
        sync_folder(self.models)
        shutil.rmtree(doomed, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Remove the oldest installed versions until `keep` are left. The current one always stays."""
        current = self.linked().name
        versions = sorted(self.versions(), key=lambda version: self.folder(version).stat().st_mtime)
        removable = [version for version in versions if version != current]
        for version in removable[: max(0, len(versions) - keep)]:
            log.info('removing the old model %s', version)
            self.remove(version)

    def mend(self) -> None:
        """Put right what killed processes left, before a node starts: interrupted installations, and a folder in place
        of the link to the current version. A failure is logged.

        An interrupted replacement is undone, so that its version exists again.
        """
        seconds = 0 if self.linked().is_dir() else _LOCK_SECONDS  # another process may be replacing a missing version
        try:
            with self._changing(seconds=seconds):
                scratches, links = self.models.glob(f'{_TEMPORARY}*'), self.data_folder.glob(f'.{_LINK}.*')
                for path in (*scratches, *links, self.link):
                    self._mend(path)
        except (FolderInUse, OSError) as error:
            log.warning('leftovers of earlier installations are not removed: %s', error)

    def _mend(self, path: Path) -> None:
        try:
            if path.name.startswith(_TEMPORARY):
                self._discard(path)
            elif path != self.link:
                path.unlink(missing_ok=True)
            elif path.is_dir() and not path.is_symlink():
                self._adopt(path)
        except OSError as error:
            log.warning('%s is left as it is: %s', path, error)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Create a folder for an installation; the next start removes it if this process is killed."""
        self.models.mkdir(parents=True, exist_ok=True)
        sync_folder(self.data_folder)
        scratch = Path(tempfile.mkdtemp(dir=self.models, prefix=_TEMPORARY))
        try:
            yield scratch
        finally:
            self._discard(scratch)

    def _discard(self, scratch: Path) -> None:
        """Remove the folder of an installation. A version that it has displaced and not replaced is put back."""
        for folder in scratch.iterdir():
            if VERSION.fullmatch(folder.name) and not os.path.lexists(self.folder(folder.name)):
                folder.rename(self.folder(folder.name))
                sync_folder(self.models)
                log.warning('the model %s is put back, because its replacement was interrupted', folder.name)
        shutil.rmtree(scratch, ignore_errors=True)

    def _adopt(self, folder: Path) -> None:
        """Make a link again of a folder in its place, as a copy has that follows links.

        A package moves to the folder of its version. It stays if another package has that version already.
        """
        if not any(folder.iterdir()):
            folder.rmdir()
            return
        try:
            package = open_package(folder)
        except InvalidPackage:  # the node tries it as it is, and logs the reason
            return
        target = self.folder(package.version)
        if not target.exists():
            self.models.mkdir(exist_ok=True)
            os.utime(folder)  # without the link, the latest model is the one to start with
            folder.rename(target)
        elif _same_package(package, target):
            self._delete(folder)
        else:
            return
        self.select(package.version)
        log.warning('%s was a folder and is a link to the model %s again', folder, package.version)

    def _changing(self, *, seconds: float | None = None) -> AbstractContextManager[None]:
        return locked(self.data_folder / _LOCK_FILE, seconds=_LOCK_SECONDS if seconds is None else seconds)

    def download_path(self, name: str) -> Path:
        """Return the file to download a package to. Interrupted downloads stay beside it and are resumed."""
        folder = self.data_folder / 'downloads'
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f'{name}.zip'

    def select(self, version: str) -> None:
        """Make an installed version the current model. Once this returns, a power cut does not undo it.

        A folder in place of the link is set aside beside it.
        """
        fresh = self.data_folder / f'.{_LINK}.{uuid.uuid4().hex}'
        fresh.symlink_to(Path('models') / version)
        if self.link.is_dir() and not self.link.is_symlink():
            aside = self.data_folder / f'{_LINK}.aside-{uuid.uuid4().hex[:8]}'
            self.link.rename(aside)
            log.warning('%s was a folder instead of a link, and was moved to %s', self.link, aside)
        os.replace(fresh, self.link)
        sync_folder(self.data_folder)

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


def _modified(folder: Path) -> float:
    """Return the time at which the content of a folder last changed; 0 for one that has been removed meanwhile."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _same_package(package: ModelPackage, folder: Path) -> bool:
    try:
        return dataclasses.replace(open_package(folder), folder=package.folder) == package
    except InvalidPackage:
        return False


def _unpacked_test_card(data_folder: Path) -> Path:
    target = data_folder / TEST_CARD_FOLDER / file_sha256(EMBEDDED_PACKAGE)[:12]
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
