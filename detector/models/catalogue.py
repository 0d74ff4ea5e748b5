"""The published rtmlib models: download the files that rtmlib would download, and pack them."""

import asyncio
import json
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Final, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError

from detector.errors import DownloadFailed, InvalidPackage
from detector.settings import without_logins
from detector.system import child_process
from detector.system.durable import replace_file
from detector.system.folder_lock import FolderLock
from detector.system.proxies import AsyncProxyTransport
from detector.system.scratch import scratch_folder
from detector.wording import counted

from .downloads import Progress, discard, download
from .embedded import CATALOGUE
from .package import VERSION, ColorOrder, Detector, Estimator, ModelPackage, Verify, file_sha256
from .packing import pack_onnx

log = logging.getLogger('wholebody.catalogue')

_MAX_BYTES: Final = 1024**3
_TIMEOUT: Final = httpx.Timeout(30, connect=10)

Watch = Callable[[str], Progress]
"""Called with a file name; returns the function that receives the progress of that download."""


class PublishedNetwork(BaseModel):
    """A published network: a zip that holds one ONNX file.

    :param urls: the address and its mirrors, tried in this order.
    :param sha256: hash of the zip. If it is None, the first download is recorded and later ones are checked against it.
    :param megabytes: approximate size of the zip; None if it is unknown.
    :param input_size: width, height in pixels.
    :param color_order: channel order that the network expects.
    :param output: output form of a detector, see `detector.models.package.Detector`; None for an estimator.
    :param score_threshold: confidence from which a box of a detector is a person; None: the package states none.
    """

    urls: list[str] = Field(min_length=1)
    sha256: str | None = None
    megabytes: float | None = Field(None, gt=0)
    input_size: tuple[int, int]
    color_order: ColorOrder
    output: Literal['nms', 'raw'] | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)

    @property
    def file_name(self) -> str:
        return self.urls[0].rpartition('/')[2]


class PublishedModel(BaseModel):
    """A published pair of person detector and pose estimator.

    :param version: version of the package that `pull` makes. Two models need different ones to be installed together.
    :param licence: licence of the weights.
    :param origin: address of the publisher.
    :param ap: published average precision of the pose estimator over the whole body on COCO-WholeBody, in percent.
    :param ap_source: origin of that figure.
    """

    description: str
    version: Annotated[str, StringConstraints(pattern=f'^{VERSION.pattern}$')] = '1.0'
    licence: str = ''
    origin: str = ''
    ap: float | None = Field(None, ge=0, le=100)
    ap_source: str = ''
    detector: PublishedNetwork
    estimator: PublishedNetwork

    @property
    def networks(self) -> tuple[PublishedNetwork, PublishedNetwork]:
        return self.detector, self.estimator

    @property
    def megabytes(self) -> float | None:
        """Approximate size of both zips; None if one is unknown."""
        sizes = [network.megabytes for network in self.networks]
        return None if None in sizes else sum(size for size in sizes if size is not None)


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


def find_model(mode: str, catalogue: Path | None = None) -> PublishedModel:
    """Return a model of a catalogue.

    :param catalogue: catalogue to use instead of the shipped one.
    :raises InvalidPackage: the catalogue cannot be read or has no such model.
    """
    models = read_catalogue(catalogue)
    if mode not in models:
        raise InvalidPackage(f'the catalogue has no model {mode!r}; it has {", ".join(models)}')
    return models[mode]


async def pull(
    mode: str,
    archive: Path,
    *,
    verify: Verify,
    cache: Path,
    catalogue: Path | None = None,
    offline: bool = False,
    watch: Watch | None = None,
    from_rtmlib: bool = False,
    on_fetched: Callable[[], object] = lambda: None,
) -> ModelPackage:
    """Download a published model, pack it and verify the package.

    :param mode: name of the model in the catalogue.
    :param archive: package to write.
    :param verify: `detector.engine.verification.verify`.
    :param cache: folder that keeps the downloads; a file in it is not downloaded again, even if the user has put it
        there.
    :param catalogue: catalogue to use instead of the shipped one.
    :param offline: True to use only files in the cache.
    :param watch: shows the progress of each download.
    :param from_rtmlib: True to take the networks from rtmlib's own cache; nothing is downloaded then.
    :param on_fetched: called when all files are there, before they are packed.
    :raises DownloadFailed: no address delivers the expected file; the text names the files, and the folder for copies.
    :raises InvalidPackage: the mode is unknown, or a file is not such a network.
    :raises FolderInUse: another process downloads into the cache.
    """
    model = find_model(mode, catalogue)
    cache.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(cache / 'downloads.lock')
    lock.acquire()
    try:
        files = _taken_from_rtmlib(model) if from_rtmlib else await _fetch(model, cache, offline, watch)
        on_fetched()
        return await child_process.to_thread(_pack, mode, model, files, archive, verify)
    finally:
        lock.release()


# ---------------------------------------------------------------- files


def rtmlib_file(network: PublishedNetwork) -> Path:
    """Return the file in which rtmlib keeps a network that it has downloaded, whether it exists or not.

    rtmlib checks no hash, and after an interrupted download it may keep a file under the name of another one.
    """
    caches = Path(os.environ.get('XDG_CACHE_HOME', '~/.cache'))
    home = Path(os.environ.get('TORCH_HOME', caches / 'rtmlib')).expanduser()
    return home / 'hub' / 'checkpoints' / f'{network.file_name.partition(".")[0]}.onnx'


def _taken_from_rtmlib(model: PublishedModel) -> list[Path]:
    files = [rtmlib_file(network) for network in model.networks]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DownloadFailed(f"rtmlib's cache lacks {' and '.join(missing)}")
    return files


async def _fetch(model: PublishedModel, cache: Path, offline: bool, watch: Watch | None) -> list[Path]:
    """Return the zips of a model, from the cache or from the first address that delivers each."""
    files: list[Path] = []
    for network in model.networks:
        try:
            files.append(await _fetched(network, cache, offline, watch))
        except DownloadFailed as error:
            later = [other for other in model.networks[len(files) + 1 :] if not (cache / other.file_name).is_file()]
            urls = [without_logins(other.urls[0]) for other in (network, *later)]
            raise DownloadFailed(
                f'{error.reason}. Without internet access here, download {" and ".join(urls)} on another machine, put '
                f'the {"file" if len(urls) == 1 else "files"} into {cache}; the next attempt uses what lies there'
            ) from error
    return files


async def _fetched(network: PublishedNetwork, cache: Path, offline: bool, watch: Watch | None) -> Path:
    target, hashes = cache / network.file_name, _Hashes(cache / 'sha256.json')
    fault = f'{network.file_name} has not been downloaded'
    is_there = target.is_file()
    if is_there:
        found = await asyncio.to_thread(_fault_of, target, network, hashes)
        if found is None:
            return target
        fault = f'{target}: {found}'
    if offline:
        raise DownloadFailed(f'{fault}, and offline mode allows no download')
    try:
        return await _downloaded(network, target, hashes, watch)
    except DownloadFailed as error:
        raise DownloadFailed(f'{fault}; {error.reason}' if is_there else error.reason) from error


async def _downloaded(network: PublishedNetwork, target: Path, hashes: '_Hashes', watch: Watch | None) -> Path:
    hosts: dict[str, list[str]] = {}  # by what failed
    progress = watch and watch(network.file_name)
    async with httpx.AsyncClient(transport=AsyncProxyTransport(), timeout=_TIMEOUT, follow_redirects=True) as client:
        for url in network.urls:
            try:
                await download(client, url, target, max_bytes=_MAX_BYTES, progress=progress, keep=False)
            except DownloadFailed as error:
                log.debug('%s', error)  # the error below names it, unless a mirror delivers the file
                hosts.setdefault(error.reason, []).append(_host(url))
                continue
            fault = await asyncio.to_thread(_fault_of, target, network, hashes)
            if fault is None:
                return target
            log.warning('%s: %s', without_logins(url), fault)
            hosts.setdefault(fault, []).append(_host(url))
            discard(target)
    raise DownloadFailed(
        f'{network.file_name} from ' + '; '.join(f'{" and ".join(named)}: {fault}' for fault, named in hosts.items())
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition('@')[2]


def _fault_of(archive: Path, network: PublishedNetwork, hashes: '_Hashes') -> str | None:
    """Return why a file is not the zip of a network, or record its hash and return None."""
    actual = file_sha256(archive)
    known = network.sha256 or hashes.get(network.file_name)
    if known is not None and actual != known:
        recorded = '' if network.sha256 else f', as recorded in {hashes.path} for the first download'
        return f'{network.file_name} has the wrong content: sha256 is {actual}, expected {known}{recorded}'
    if known is None:
        try:
            _check_zip(archive)
        except InvalidPackage as error:
            return str(error)
    hashes.record(network.file_name, actual)
    return None


_HASHES: Final = TypeAdapter(dict[str, str])


class _Hashes:
    """The recorded hashes of earlier downloads.

    :raises OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._known = _HASHES.validate_json(path.read_bytes())
        except FileNotFoundError:
            self._known = {}
        except ValidationError:
            log.warning('%s is damaged: downloads without a hash in the catalogue count as the first ones', path)
            self._known = {}

    def get(self, name: str) -> str | None:
        return self._known.get(name)

    def record(self, name: str, sha256: str) -> None:
        if self._known.get(name) != sha256:
            self._known[name] = sha256
            replace_file(self.path, json.dumps(self._known, indent=1).encode())


# ---------------------------------------------------------------- packing


def _pack(mode: str, model: PublishedModel, files: Sequence[Path], archive: Path, verify: Verify) -> ModelPackage:
    with scratch_folder() as folder:
        networks = [_extracted(file, folder / f'{file.stem}.onnx') for file in files]
        hashes = [f'{file.name} sha256:{file_sha256(file)}' for file in files]
        return pack_onnx(
            archive,
            detector=networks[0],
            estimator=networks[1],
            name=mode,
            version=model.version,
            verify=partial(_verified, model, files, verify),
            detector_color=model.detector.color_order,
            estimator_color=model.estimator.color_order,
            score_threshold=model.detector.score_threshold,
            origin=' '.join([model.origin, *hashes]).strip(),
            licence=model.licence,
        )


def _verified(model: PublishedModel, files: Sequence[Path], verify: Verify, archive: Path) -> ModelPackage:
    """Verify a package, and that its networks have the input sizes of the catalogue, as the right files do."""
    package = verify(archive)
    packed: tuple[Detector | Estimator, ...] = (package.wholebody.detector, package.wholebody.estimator)
    for network, found, file in zip(model.networks, packed, files, strict=True):
        if found.input_size != network.input_size:
            actual, expected = ('×'.join(map(str, size)) for size in (found.input_size, network.input_size))
            raise InvalidPackage(f'{file}: the input is {actual}; the catalogue expects {expected}')
    return package


def _check_zip(archive: Path) -> None:
    """Read the ONNX file in a published zip to its end, where its checksum is checked.

    :raises InvalidPackage: see `_copy_network`.
    """
    with Path(os.devnull).open('wb') as nowhere:
        _copy_network(archive, nowhere)


def _extracted(file: Path, target: Path) -> Path:
    """Extract the ONNX file of a published zip. A file from rtmlib's cache is an ONNX file already."""
    if file.suffix == '.onnx':
        return file
    with target.open('wb') as sink:
        _copy_network(file, sink)
    return target


def _copy_network(archive: Path, sink: IO[bytes]) -> None:
    """Copy the only ONNX file in a published zip. mmdeploy names it end2end.onnx, within folders.

    :raises InvalidPackage: the file is not such a zip, or is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            found = [entry for entry in source.infolist() if entry.filename.endswith('.onnx')]
            if len(found) != 1 or found[0].file_size > _MAX_BYTES:
                raise InvalidPackage(f'{archive.name} holds {counted(len(found), "ONNX file")}; one is expected')
            with source.open(found[0]) as content:
                shutil.copyfileobj(content, sink)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidPackage(f'{archive.name} is not a readable zip file: {error}') from error
