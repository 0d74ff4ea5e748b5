"""The published rtmlib models: download the files that rtmlib would download, and pack them."""

import asyncio
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import httpx
from pydantic import BaseModel, Field, TypeAdapter

from detector.errors import DownloadFailed, InvalidPackage, WholebodyError
from detector.system.folder_lock import FolderLock

from .downloads import Progress, discard, download
from .embedded import CATALOGUE
from .package import ColorOrder, ModelPackage, Verify, file_sha256
from .packing import pack_onnx

log = logging.getLogger('wholebody.catalogue')

VERSION: Final = '1.0'
_MAX_BYTES: Final = 1024**3
_TIMEOUT: Final = httpx.Timeout(30, connect=10)

Watch = Callable[[str], Progress]
"""Called with a file name; returns the function that receives the progress of that download."""


class PublishedNetwork(BaseModel):
    """A published network: a zip that holds one ONNX file.

    :param urls: the address and its mirrors, tried in this order.
    :param sha256: hash of the zip. If it is None, the first download is recorded and later ones are checked against it.
    :param input_size: width, height in pixels.
    :param color_order: channel order that the network expects.
    :param output: output form of a detector, see `detector.models.package.Detector`; None for an estimator.
    """

    urls: list[str] = Field(min_length=1)
    sha256: str | None = None
    input_size: tuple[int, int]
    color_order: ColorOrder
    output: Literal['nms', 'raw'] | None = None

    @property
    def file_name(self) -> str:
        return self.urls[0].rpartition('/')[2]


class PublishedModel(BaseModel):
    """A published pair of person detector and pose estimator."""

    description: str
    detector: PublishedNetwork
    estimator: PublishedNetwork


_CATALOGUE: Final = TypeAdapter(dict[str, PublishedModel])


def read_catalogue(path: Path | None = None) -> dict[str, PublishedModel]:
    """Read a catalogue of models; without a path, the shipped one.

    :return: models by mode.
    :raises InvalidPackage: the file is not a catalogue.
    """
    path = path or CATALOGUE
    try:
        return _CATALOGUE.validate_python(json.loads(path.read_bytes()))  # detects the encoding, unlike pydantic
    except (OSError, ValueError) as error:
        raise InvalidPackage(f'{path} is not a catalogue of models: {error}') from error


async def pull(
    mode: str,
    archive: Path,
    *,
    verify: Verify,
    cache: Path,
    catalogue: Path | None = None,
    offline: bool = False,
    watch: Watch | None = None,
) -> ModelPackage:
    """Download a published model, pack it and verify the package.

    :param mode: name of the model in the catalogue.
    :param archive: package to write.
    :param verify: `detector.engine.verification.verify`.
    :param cache: folder that keeps the downloads; a file in it is not downloaded again.
    :param catalogue: catalogue to use instead of the shipped one.
    :param offline: True to use only files in the cache.
    :param watch: shows the progress of each download.
    :raises DownloadFailed: no address delivers the expected file.
    :raises InvalidPackage: the mode is unknown, or a file is not such a network.
    :raises FolderInUse: another process downloads into the cache.
    """
    models = read_catalogue(catalogue)
    if mode not in models:
        raise InvalidPackage(f'the catalogue has no model {mode!r}; it has {", ".join(models)}')
    model = models[mode]
    cache.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(cache / 'downloads.lock')
    lock.acquire()
    try:
        files = [await _fetched(network, cache, offline, watch) for network in (model.detector, model.estimator)]
        return await asyncio.to_thread(_pack, mode, model, files, archive, verify)
    finally:
        lock.release()


async def _fetched(network: PublishedNetwork, cache: Path, offline: bool, watch: Watch | None) -> Path:
    """Return the zip of a network, from the cache or from the first address that delivers it."""
    target = cache / network.file_name
    hashes = _Hashes(cache / 'sha256.json')
    expected = network.sha256 or hashes.get(network.file_name)
    if target.is_file() and expected == await asyncio.to_thread(file_sha256, target):
        return target
    if offline and not target.is_file():
        raise DownloadFailed(
            f'{network.file_name} has not been downloaded, and offline mode allows no download: '
            f'fetch {network.urls[0]} on another machine and copy it to {target}'
        )
    if offline:  # the user has put the file into the cache
        hashes.check(network.file_name, await asyncio.to_thread(file_sha256, target), expected)
        return target
    return await _downloaded(network, target, hashes, expected, watch)


async def _downloaded(
    network: PublishedNetwork, target: Path, hashes: '_Hashes', expected: str | None, watch: Watch | None
) -> Path:
    failures = []
    async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=True) as client:
        for url in network.urls:
            try:
                await download(client, url, target, max_bytes=_MAX_BYTES, progress=watch and watch(network.file_name))
                hashes.check(network.file_name, await asyncio.to_thread(file_sha256, target), expected)
                return target
            except WholebodyError as error:
                log.warning('%s', error)
                failures.append(str(error))
                discard(target)
    raise DownloadFailed('; '.join(failures))


class _Hashes:
    """The recorded hashes of earlier downloads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, str] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            self._known = {}

    def get(self, name: str) -> str | None:
        return self._known.get(name)

    def check(self, name: str, actual: str, expected: str | None) -> None:
        """Compare a hash with the expected one. The hash is recorded for later downloads.

        :raises DownloadFailed: the hashes differ.
        """
        if expected is not None and actual != expected:
            raise DownloadFailed(f'{name}: sha256 is {actual}, expected {expected}')
        self._known[name] = actual
        self._path.write_text(json.dumps(self._known, indent=1))


def _pack(mode: str, model: PublishedModel, files: list[Path], archive: Path, verify: Verify) -> ModelPackage:
    with tempfile.TemporaryDirectory(prefix='wholebody-') as folder:
        networks = [_extracted(file, Path(folder) / f'{file.stem}.onnx') for file in files]
        return pack_onnx(
            archive,
            detector=networks[0],
            estimator=networks[1],
            name=mode,
            version=VERSION,
            verify=verify,
            detector_color=model.detector.color_order,
            estimator_color=model.estimator.color_order,
            origin=' '.join(f'{file.name} sha256:{file_sha256(file)}' for file in files),
            licence='Apache-2.0',
        )


def _extracted(archive: Path, target: Path) -> Path:
    """Extract the ONNX file of a published zip. mmdeploy names it end2end.onnx and puts it into folders."""
    try:
        with zipfile.ZipFile(archive) as source:
            found = [entry for entry in source.infolist() if entry.filename.endswith('.onnx')]
            if len(found) != 1 or found[0].file_size > _MAX_BYTES:
                raise InvalidPackage(f'{archive.name} holds {len(found)} ONNX files; one is expected')
            with source.open(found[0]) as content, target.open('wb') as sink:
                shutil.copyfileobj(content, sink)
    except zipfile.BadZipFile as error:
        discard(archive)
        raise InvalidPackage(f'{archive.name} is not a readable zip file: {error}') from error
    return target
