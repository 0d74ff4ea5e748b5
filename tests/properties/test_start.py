"""A node starts whatever has happened to a file that it reads, and serves a model that works or names the remedy."""

import asyncio
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_loop_node.enums import OperationMode

from benchmarks.support.packages import make_package
from detector.engine.pose_engine import EngineOptions
from detector.engine.verification import verify
from detector.models.store import ModelStore
from detector.node.server import _lock
from detector.node.wholebody_node import WholebodyNode
from detector.settings import Settings
from tests.support.fuzz_budget import FUZZ_SECONDS
from tests.support.strategies import JSON, damaged

Change = Callable[[Path], object]

START_SECONDS: Final = 60
few = settings(deadline=None) if FUZZ_SECONDS else settings(deadline=None, max_examples=8)
"""Settings of tests whose examples each start a node."""
WRITTEN: Final = {'node.lock', 'models.lock', 'uuids.json', 'cache/trials.json', 'cache/runtimes.json'}
"""Files of a data folder beside models, outbox and corrections."""


class Started:
    """What a start has led to.

    :param serves: version of the model that serves; None if none does.
    :param unavailable: why none serves.
    :param faults: lines of the log with a traceback.
    """

    def __init__(self) -> None:
        self.serves: str | None = None
        self.unavailable: str | None = None
        self.faults: list[str] = []


async def start(folder: Path) -> Started:
    """Start a node in this process, wait until loading the first model has ended, and stop the node."""
    started = Started()

    class Faults(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info or 'Traceback' in record.getMessage():
                started.faults.append(record.getMessage())

    handler = Faults()
    logging.getLogger().addHandler(handler)
    configured = Settings(
        data_folder=folder,
        loop_host='127.0.0.1:9',
        loop_organization='o',
        loop_project='p',
        label_studio_url='http://127.0.0.1:9',
        label_studio_api_token='token',
        backend_type='onnxruntime',
        skip_repeat_on_start=True,
    )
    try:
        with patch.dict(os.environ):  # a node rewrites it for upstream
            lock = _lock(configured)
            try:
                node = WholebodyNode(configured, lock)
                async with asyncio.timeout(START_SECONDS), node.lifespan(node):
                    while node.parts.following.operation_mode == OperationMode.Startup:
                        await asyncio.sleep(0.02)
                    current = node.parts.serving.current()
                    started.serves = None if current is None else current.model_version
                    started.unavailable = node.parts.serving.unavailable
                    assert node.parts.service.about.about()
            finally:
                lock.release()
    finally:
        logging.getLogger().removeHandler(handler)
    return started


@cache
def template() -> Path:
    """Make the data folder of a node that has run with two installed models, an image and a correction."""
    root = Path(tempfile.mkdtemp(prefix='wholebody-start-'))
    data = root / 'data'
    store = ModelStore(data)
    verified = partial(verify, options=EngineOptions(backend_type='onnxruntime', cache=data / 'cache'))
    for version, name in (('1.0', 'older'), ('2.0', 'newer')):
        store.install(make_package(root / f'{version}.zip', version=version, name=name), verify=verified)
    image = data / 'outbox' / 'normal' / '2026-01-31_12:00:00.000000'
    image.mkdir(parents=True)
    (image / f'image_{image.name}.json').write_text(json.dumps({'box_detections': [], 'tags': []}))
    (image / f'image_{image.name}.jpg').write_bytes(b'jpeg')
    (data / 'cache' / 'runtimes.json').write_text('{}')
    started = asyncio.run(start(data))
    assert (started.serves, started.faults) == ('newer 2.0', [])
    return data


@cache
def places() -> list[str]:
    """Return the files, folders and links of the data folder, which the changes are made to."""
    found = sorted(path.relative_to(template()).as_posix() for path in template().rglob('*'))
    assert set(found) >= WRITTEN | {'current_model', 'models/2.0/model.json', 'outbox/normal'}
    return found


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replaced_by(make: Change) -> Change:
    def change(path: Path) -> None:
        remove(path)
        make(path)

    return change


def with_content(content: bytes) -> Change:
    return replaced_by(lambda path: path.write_bytes(content))


def nonempty(path: Path) -> None:
    path.mkdir()
    (path / 'file').touch()


def without_permission(path: Path) -> None:
    if not path.is_symlink():
        path.chmod(0)


CHANGES: Final[dict[str, Change]] = {
    'missing': remove,
    'folder': replaced_by(Path.mkdir),
    'folder with a file': replaced_by(nonempty),
    'pipe': replaced_by(os.mkfifo),
    'link to itself': replaced_by(lambda path: path.symlink_to(path)),
    'link to nothing': replaced_by(lambda path: path.symlink_to('nothing')),
    'link into nothing': replaced_by(lambda path: path.symlink_to('nothing/below')),
    'no permission': without_permission,
    'empty': with_content(b''),
    'nothing but NUL': with_content(bytes(5000)),
    'null': with_content(b'null'),
    'list': with_content(b'[]'),
    'nested': with_content(200_000 * b'['),
    'not UTF-8': with_content('{"ä": "ö"}'.encode('latin-1')),
    'huge': with_content(5_000_000 * b' '),
}
"""Changes of a file, folder or link, by name."""


async def start_after(place: str, change: Change) -> Started:
    """Start a node on a copy of the data folder with one change."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / 'data'
        shutil.copytree(template(), data, symlinks=True)
        change(data / place)
        try:
            return await start(data)
        finally:
            for folder in (path for path in [data, *data.rglob('*')] if path.is_dir() and not path.is_symlink()):
                folder.chmod(stat.S_IRWXU)


def check(place: str, started: Started) -> None:
    assert started.faults == []
    if place == 'models' and started.serves is None:  # then no installed model is left
        assert 'wholebody model' in str(started.unavailable)
    else:
        assert started.serves in ('newer 2.0', 'older 1.0')


@pytest.mark.nightly
@pytest.mark.parametrize('name', CHANGES)
def test_a_node_starts_after_each_change_of_each_file(name: str) -> None:
    """Each file, folder and link of the data folder is changed in turn; the node serves a good model each time."""
    found = {}
    for place in places():
        started = asyncio.run(start_after(place, CHANGES[name]))
        try:
            check(place, started)
        except AssertionError:
            found[place] = (started.serves, started.unavailable, started.faults)
    assert found == {}


@few
@given(st.data())
def test_a_node_starts_after_any_change_of_any_file(data: st.DataObject) -> None:
    """Whatever becomes of a file, folder or link, the node serves a good model; the nightly test takes all changes."""
    place = data.draw(st.sampled_from(places()))
    change = CHANGES[data.draw(st.sampled_from(sorted(CHANGES)))]
    check(place, asyncio.run(start_after(place, change)))


@pytest.mark.parametrize(
    ('place', 'name'),
    [
        ('node.lock', 'link to itself'),
        ('node.lock', 'link into nothing'),
        ('outbox/normal', 'pipe'),
        ('cache/trials.json', 'nested'),
    ],
)
def test_a_node_starts_after_a_change_that_once_stopped_it(place: str, name: str) -> None:
    """Changes that the nightly test has found stay without effect."""
    check(place, asyncio.run(start_after(place, CHANGES[name])))


@few
@given(st.data())
def test_a_node_starts_with_any_content_of_any_file(data: st.DataObject) -> None:
    """Bytes and JSON of any kind, and damaged copies of the content, lead to a good model."""
    place = data.draw(st.sampled_from([place for place in places() if (template() / place).is_file()]))
    content = (template() / place).read_bytes()
    written = data.draw(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()) | damaged(content))
    check(place, asyncio.run(start_after(place, with_content(written))))
