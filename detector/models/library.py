"""The models that a user may choose from: those of the catalogue, which can be pulled, and the installed ones."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector.errors import InvalidPackage, InvalidRequest, NotFound
from detector.system.scratch import scratch_folder

from . import catalogue
from .catalogue import PublishedModel, Watch, find_model, read_catalogue, rtmlib_file
from .embedded import EMBEDDED_NAMES, embedded_name
from .package import ModelPackage, Verify, open_package
from .store import ModelStore

INSTALLED: Final = 'installed'
"""Role of an installed model."""
EMBEDDED: Final = 'embedded'
"""Role of an embedded model."""
DOWNLOADS: Final = 'downloads'
"""Folder of the downloads, in DATA_FOLDER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailableModel:
    """A model of the catalogue.

    :param mode: its name in the catalogue.
    :param version: the version under which `pull` installs it.
    :param megabytes: approximate size of the download; None if it is unknown.
    :param ap: published average precision over the whole body on COCO-WholeBody, in percent; None if it is unknown.
    :param downloaded: True if both files are in the folder of downloads, so that a pull needs no network.
    :param in_rtmlib_cache: True if rtmlib has downloaded both networks before.
    """

    mode: str
    version: str
    description: str
    megabytes: float | None
    licence: str
    origin: str
    ap: float | None
    ap_source: str
    installed: bool
    current: bool
    downloaded: bool
    in_rtmlib_cache: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model that is installed, or one that ships with the project.

    :param role: `installed` or `embedded`.
    :param current: True if a node that starts now serves it.
    :param bytes: size of its folder.
    :param error: why it cannot be used; None if it can.
    """

    version: str
    name: str
    role: str = INSTALLED
    current: bool
    bytes: int
    licence: str
    origin: str
    folder: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """A model to pull.

    :param mode: its name in the catalogue.
    :param offline: True to use only files that have been downloaded.
    :param from_rtmlib: True to take the networks from rtmlib's cache.
    """

    mode: str
    offline: bool = False
    from_rtmlib: bool = False


class ModelLibrary:
    """Lists, pulls, selects and removes models of one data folder. Nothing here depends on a running node.

    :param catalogue_path: catalogue to use instead of the shipped one.
    """

    def __init__(self, store: ModelStore, catalogue_path: Path | None = None) -> None:
        self.store = store
        self._catalogue = catalogue_path

    def available(self) -> list[AvailableModel]:
        """Return the models of the catalogue in its order. Reads the disk.

        :raises InvalidPackage: the catalogue cannot be read.
        """
        installed = {(model.name, model.version): model for model in self.installed() if model.error is None}
        return [
            self._describe(mode, model, installed.get((mode, model.version)))
            for mode, model in read_catalogue(self._catalogue).items()
        ]

    def _describe(self, mode: str, model: PublishedModel, installed: InstalledModel | None) -> AvailableModel:
        downloads = self.store.data_folder / DOWNLOADS
        return AvailableModel(
            mode=mode,
            version=model.version,
            description=model.description,
            megabytes=model.megabytes,
            licence=model.licence,
            origin=model.origin,
            ap=model.ap,
            ap_source=model.ap_source,
            installed=installed is not None,
            current=installed is not None and installed.current,
            downloaded=all((downloads / network.file_name).is_file() for network in model.networks),
            in_rtmlib_cache=all(rtmlib_file(network).is_file() for network in model.networks),
        )

    def installed(self) -> list[InstalledModel]:
        """Return the installed models, sorted by version. Reads the disk."""
        current = self._current_version()
        return [
            _read(self.store.folder(version), version, current=version == current) for version in self.store.versions()
        ]

    def embedded(self, mode: str) -> list[InstalledModel]:
        """Return the embedded models, which serve if none is installed. Their version is their name.

        :param mode: value of MODE.
        """
        is_empty = not self.store.to_start_with()
        return [
            InstalledModel(
                version=name,
                name=name,
                role=EMBEDDED,
                current=is_empty and name == embedded_name(mode),
                bytes=0,  # it is made when it is needed
                licence='',
                origin='',
                folder='',
            )
            for name in EMBEDDED_NAMES
        ]

    def _current_version(self) -> str | None:
        try:
            folder = self.store.current()
        except InvalidPackage:  # it is missing; the node and `wholebody doctor` say so
            return None
        return None if folder is None else folder.name

    def find(self, name: str) -> InstalledModel:
        """Return the installed model of a version, of a name, or of both as `balanced 1.0.2`.

        :raises NotFound: no such model is installed; the text lists the installed ones, or says how to pull it.
        :raises InvalidRequest: several versions have this name.
        """
        models = self.installed()
        found = [model for model in models if name in (model.version, model.name, f'{model.name} {model.version}')]
        if len(found) == 1:
            return found[0]
        if found:
            versions = ', '.join(model.version for model in found)
            raise InvalidRequest(f'{name} is installed in the versions {versions}; name one of them')
        if name in read_catalogue(self._catalogue):
            raise NotFound(f'{name} is not installed; run `wholebody model pull {name}`')
        listed = ', '.join(f'{model.name} {model.version}'.strip() for model in models) or 'no model'
        raise NotFound(f'{name} is not installed; installed: {listed}')

    def missing_files(self, mode: str) -> dict[str, int | None]:
        """Return the files of a model that are not downloaded yet, with their approximate sizes in bytes.

        :raises InvalidPackage: the catalogue cannot be read or has no such model.
        """
        return {
            network.file_name: None if network.megabytes is None else int(network.megabytes * 1e6)
            for network in find_model(mode, self._catalogue).networks
            if not (self.store.data_folder / DOWNLOADS / network.file_name).is_file()
        }

    async def pull(
        self,
        request: PullRequest,
        archive: Path | None = None,
        *,
        verify: Verify,
        watch: Watch | None = None,
        on_fetched: Callable[[], object] = lambda: None,
    ) -> ModelPackage:
        """Download, pack, verify and install a model of the catalogue. It does not become current.

        :param archive: file to write the package to, instead of installing it.
        :param verify: `detector.engine.verification.verify`.
        :param watch: shows the progress of each download.
        :param on_fetched: called when all files are there, before they are packed and installed.
        :raises DownloadFailed: see `catalogue.pull`.
        :raises InvalidPackage: the catalogue has no such model, or a file is not such a network.
        :raises InvalidRequest: another model is installed under the version of this one.
        :raises FolderInUse: another process downloads or changes models.
        """
        version = find_model(request.mode, self._catalogue).version
        if archive is None:
            self._check_free(request.mode, version)
        with scratch_folder() as scratch:  # another process may pull the same model
            target = archive or scratch / f'{request.mode}.zip'
            package = await catalogue.pull(
                request.mode,
                target,
                verify=verify,
                cache=self.store.data_folder / DOWNLOADS,
                catalogue=self._catalogue,
                offline=request.offline,
                watch=watch,
                from_rtmlib=request.from_rtmlib,
                on_fetched=on_fetched,
            )
            if archive is not None:
                return package

            def check(_: ModelPackage) -> None:  # the Loop may have installed this version during the download
                self._check_free(request.mode, version)

            return await asyncio.to_thread(self.store.add, target, before_replacing=check)

    def _check_free(self, mode: str, version: str) -> None:
        """Raise an error if a model of another name is installed under a version: pulling would overwrite it."""
        if self.store.folder(version).is_dir():
            there = _read(self.store.folder(version), version, current=False)
            if there.error is None and there.name != mode:
                raise InvalidRequest(
                    f'{there.name} is installed as version {version}, which {mode} would overwrite: remove it with '
                    f'`wholebody model remove {version}`, or give {mode} another version in the catalogue'
                )

    def use(self, name: str) -> ModelPackage:
        """Make an installed model current.

        :raises NotFound: see `find`.
        :raises InvalidPackage: the model is damaged.
        """
        model = self.find(name)
        package = open_package(Path(model.folder))
        self.store.select(model.version)
        return package

    def remove(self, name: str, *, serving: str | None = None) -> InstalledModel:
        """Remove an installed model.

        :param serving: the version that a node serves from this data folder.
        :return: the removed model.
        :raises NotFound: see `find`.
        :raises InvalidRequest: the model is current, or a node serves it.
        """
        model = self.find(name)
        if model.current or model.version == serving:
            role = 'is the current model' if model.current else 'is served by the running node'
            raise InvalidRequest(f'{model.name} {model.version} {role}; use another one first: `wholebody model use`')
        self.store.remove(model.version)
        return model


def _read(folder: Path, version: str, *, current: bool) -> InstalledModel:
    name = licence = origin = ''
    error: str | None = None
    try:
        package = open_package(folder)
        name, licence, origin = package.name, package.wholebody.licence, package.wholebody.origin
    except InvalidPackage as fault:
        error = str(fault)
    return InstalledModel(
        version=version,
        name=name,
        current=current,
        bytes=sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()),
        licence=licence,
        origin=origin,
        folder=str(folder),
        error=error,
    )
