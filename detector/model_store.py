"""Installed models: one folder per version under DATA_FOLDER/models, and a link to the current one.

The layout is that of learning_loop_node: `models/<version>/` and the symbolic link `current_model`.
"""

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Final

from . import model_package
from .embedded import EMBEDDED_PACKAGE
from .engine import PoseEngine
from .errors import InvalidPackage
from .model_package import ModelPackage, file_sha256, open_package
from .runtimes import BackendType

_LINK: Final = 'current_model'


def verify(archive: Path, *, backend_type: BackendType = 'auto', device: str = 'cpu') -> ModelPackage:
    """Verify a package wholly, a trial inference included.

    :return: its description; the folder that it names is gone again.
    :raises InvalidPackage: names the file or field and the reason.
    :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
    """
    with tempfile.TemporaryDirectory(prefix='wholebody-') as folder:
        return _unpack_verified(archive, Path(folder), backend_type, device)


def _unpack_verified(archive: Path, folder: Path, backend_type: BackendType, device: str) -> ModelPackage:
    package = model_package.unpack(archive, folder)
    PoseEngine(package, backend_type=backend_type, device=device).check()
    return package


class ModelStore:
    """The models of one data folder.

    :param data_folder: created when something is first written.
    """

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.models = data_folder / 'models'

    def current(self) -> Path | None:
        """The folder of the current model, or None if none was ever selected.

        :raises InvalidPackage: the link leads nowhere.
        """
        link = self.data_folder / _LINK
        if not link.is_symlink():
            return None
        folder = link.resolve()
        if not folder.is_dir():
            raise InvalidPackage(f'the current model {folder.name} is gone from {self.models}')
        return folder

    def installed(self) -> list[ModelPackage | InvalidPackage]:
        """Every installed model, by version; broken ones as the error that says why."""
        if not self.models.is_dir():
            return []
        found: list[ModelPackage | InvalidPackage] = []
        for folder in sorted(self.models.iterdir(), key=_version_key):
            if not folder.is_dir() or folder.name.startswith('.'):
                continue
            try:
                found.append(open_package(folder))
            except InvalidPackage as error:
                found.append(InvalidPackage(f'{folder.name}: {error}'))
        return found

    def install(
        self, archive: Path, *, replace: bool = False, backend_type: BackendType = 'auto', device: str = 'cpu'
    ) -> ModelPackage:
        """Verify a package, install it and make it current.

        :param replace: replace an installed model of the same version.
        :raises InvalidPackage: the package is not valid, or its version is installed already.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        """
        self.models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.models, prefix='.install-') as temporary:
            fresh = Path(temporary) / 'new'
            fresh.mkdir()
            version = _unpack_verified(archive, fresh, backend_type, device).version
            target = self.models / version
            if target.exists():
                if not replace:
                    raise InvalidPackage(f'version {version} is installed already; --replace installs over it')
                target.rename(Path(temporary) / 'old')
            fresh.rename(target)
        self.select(version)
        return open_package(target)

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

    def current_or_embedded(self) -> Path:
        """The folder of the current model, or of the embedded one where none was ever selected.

        :raises InvalidPackage: the current model is gone.
        """
        return self.current() or self.embedded()


def _version_key(folder: Path) -> tuple[list[int], str]:
    parts = folder.name.split('.')
    return ([int(part) for part in parts] if all(part.isdigit() for part in parts) else []), folder.name
