"""Installed models: one folder per version under DATA_FOLDER/models, and a link to the current one.

The layout is that of learning_loop_node: `models/<version>/` and the symbolic link `current_model`.
"""

import logging
import os
import shutil
import tempfile
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from detector.errors import FolderInUse, InvalidPackage
from detector.system.folder_lock import locked

from . import package as model_package
from .embedded import EMBEDDED_PACKAGE
from .package import VERSION, ModelPackage, Verify, file_sha256, open_package

_LINK: Final = 'current_model'
_TEMPORARY: Final = '.install-'
_LOCK_FILE: Final = 'models.lock'
_LOCK_SECONDS: Final = 10.0
"""So long another process may take to unpack a package."""

log = logging.getLogger('wholebody.models')


class ModelStore:
    """The models of one data folder.

    What changes the models holds a lock: a node and a command may be at work on them at the same time.

    :param data_folder: created when something is first written.
    """

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.models = data_folder / 'models'

    @property
    def has_current(self) -> bool:
        """Whether a model was ever selected."""
        return (self.data_folder / _LINK).is_symlink()

    def current(self) -> Path | None:
        """The folder of the current model, or None if none was ever selected.

        :raises InvalidPackage: the link leads nowhere.
        """
        link = self.data_folder / _LINK
        if not self.has_current:
            return None
        folder = link.resolve()
        if not folder.is_dir():
            raise InvalidPackage(f'the current model {folder.name} is gone from {self.models}')
        return folder

    def to_start_with(self) -> list[Path]:
        """The folders to try when a node starts, best first: the current model, then the others, latest first.

        The embedded model is tried only where none was ever selected: it would hide that a real one is missing.
        """
        if not self.has_current:
            return [self.embedded()]
        current = (self.data_folder / _LINK).resolve()
        others = [self.folder(version).resolve() for version in self.versions()]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        return [current, *(folder for folder in others if folder != current)]

    def installed(self) -> list[ModelPackage | InvalidPackage]:
        """Every installed model, by version; broken ones as the error that says why."""
        found: list[ModelPackage | InvalidPackage] = []
        for version in self.versions():
            try:
                found.append(open_package(self.folder(version)))
            except InvalidPackage as error:
                found.append(InvalidPackage(f'{version}: {error}'))
        return found

    def versions(self) -> list[str]:
        """The installed versions, sound or not, in their order."""
        if not self.models.is_dir():
            return []
        names = (folder.name for folder in self.models.iterdir() if folder.is_dir())
        return sorted((name for name in names if VERSION.fullmatch(name)), key=_version_key)

    def folder(self, version: str) -> Path:
        """Where a version lies, or would."""
        return self.models / version

    def install(self, archive: Path, *, verify: Verify, replace: bool = False) -> ModelPackage:
        """Verify a package wholly, install it and make it current.

        :param replace: replace an installed model of the same version.
        :raises InvalidPackage: the package is not valid, or its version is installed already.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        """
        version = verify(archive).version
        if self.folder(version).exists() and not replace:
            raise InvalidPackage(f'version {version} is installed already; --replace installs over it')
        package = self.add(archive)
        self.select(version)
        return package

    def add(self, archive: Path, *, version: str | None = None, model_id: str | None = None) -> ModelPackage:
        """Unpack a package into its folder, over what is there; its networks are not tried.

        :param version: that under which the Learning Loop offers it; it wins over what `model.json` says.
        :param model_id: that of the Learning Loop; it wins as well.
        :raises InvalidPackage: names the file or field and the reason.
        :raises FolderInUse: another process changes the models.
        """
        self.models.mkdir(parents=True, exist_ok=True)
        with (
            self._changing(),
            tempfile.TemporaryDirectory(dir=self.models, prefix=_TEMPORARY) as temporary,
        ):
            fresh = Path(temporary) / 'new'
            fresh.mkdir()
            package = model_package.unpack(archive, fresh)
            if version is not None and model_id is not None:
                if version != package.version:
                    log.warning('model %s calls itself %s', version, package.version)
                model_package.set_identity(fresh, version=version, model_id=model_id)
            target = self.folder(version or package.version)
            if target.exists():
                target.rename(Path(temporary) / 'old')
            fresh.rename(target)
        return open_package(target)

    def remove(self, version: str) -> None:
        """Remove an installed version; nothing happens if there is none."""
        if self.folder(version).is_dir():
            with self._changing():
                doomed = self.models / f'{_TEMPORARY}{uuid.uuid4().hex}'
                self.folder(version).rename(doomed)  # at once, so that no kill leaves half a model
                shutil.rmtree(doomed, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Remove the versions that were installed first until `keep` are left; never the current one."""
        current = (self.data_folder / _LINK).resolve().name
        versions = sorted(self.versions(), key=lambda version: self.folder(version).stat().st_mtime)
        removable = [version for version in versions if version != current]
        for version in removable[: max(0, len(versions) - keep)]:
            log.info('removing the old model %s', version)
            self.remove(version)

    def clean(self) -> None:
        """Remove what a killed process left half done; what another process is doing now is left alone."""
        try:
            with self._changing(seconds=0):
                for leftover in self.models.glob(f'{_TEMPORARY}*'):
                    shutil.rmtree(leftover, ignore_errors=True)
                for link in self.data_folder.glob(f'.{_LINK}.*'):
                    link.unlink(missing_ok=True)
        except FolderInUse as error:
            log.warning('nothing is tidied up: %s', error)

    def _changing(self, *, seconds: float | None = None) -> AbstractContextManager[None]:
        return locked(self.data_folder / _LOCK_FILE, seconds=_LOCK_SECONDS if seconds is None else seconds)

    def download_path(self, name: str) -> Path:
        """Where a package is downloaded to; interrupted downloads stay there to be resumed."""
        folder = self.data_folder / 'downloads'
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f'{name}.zip'

    def select(self, version: str) -> None:
        """Make an installed version the current model."""
        link = self.data_folder / f'.{_LINK}.{uuid.uuid4().hex}'
        link.symlink_to(Path('models') / version)
        os.replace(link, self.data_folder / _LINK)

    def embedded(self) -> Path:
        """The folder of the embedded model, unpacked at the first call."""
        target = self.data_folder / 'embedded' / file_sha256(EMBEDDED_PACKAGE)[:12]
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix='.unpack-'))
        try:
            model_package.unpack(EMBEDDED_PACKAGE, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def open(self, model: Path | None, scratch: Path) -> ModelPackage:
        """The model that a command works with.

        :param model: a package, as a zip or a folder; None: the current one, or else the embedded one.
        :param scratch: an empty folder, to which a zip is unpacked.
        :raises InvalidPackage: names the file or field and the reason.
        """
        if model is None:
            return open_package(self.current_or_embedded())
        return open_package(model) if model.is_dir() else model_package.unpack(model, scratch)

    def current_or_embedded(self) -> Path:
        """The folder of the current model, or of the embedded one where none was ever selected.

        :raises InvalidPackage: the current model is gone.
        """
        return self.current() or self.embedded()


def _version_key(version: str) -> list[int]:
    return [int(part) for part in version.split('.')]
