"""Persistence of a mock Learning Loop across restarts and kills."""

import threading
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import make_package
from detector.models.package import MODEL_FORMAT
from mock.loop.errors import Conflict, LoopError, Unknown
from mock.loop.seed import seed_once
from mock.loop.store import LoopStore


def test_everything_survives_a_kill(tmp_path: Path) -> None:
    """Models, target, images, metadata and status reports survive SIGKILL; logins do not."""
    with running_mock_loop(tmp_path / 'loop') as loop:
        loop.login()
        loop.upload_package(make_package(tmp_path / 'package.zip'))
        loop.set_target('1.1')
        for name in ('b', 'a'):
            metadata = b'{"tags": ["t"], "source": "s"}'
            files = [('files', (f'{name}.jpg', CARD)), ('files', (f'{name}.json', metadata))]
            assert loop.http.post(f'{loop.api}/images', files=files).status_code == 200
        report = {
            'uuid': 'u', 'name': 'n', 'state': 'online', 'uptime': 1, 'model_format': 'f', 'current_model': None,
            'target_model': '1.0', 'errors': {}, 'operation_mode': 'idle',
        }  # fmt: skip
        assert loop.http.post(f'{loop.api}/detectors', json=report).status_code == 200
        assert loop.http.post(f'{loop.api}/detections', json=[{'image_id': 'x'}]).status_code == 200
        before = snapshot(loop)
        loop.kill()
        loop.start()
        assert snapshot(loop) == before
        assert [image['name'] for image in loop.images('t')] == ['b', 'a']
        assert loop.http.get(f'{loop.api}/deployment/target').status_code == 401
        content = loop.http.get(f'{loop.api}/models/{loop.target()["model_uuid"]}/{MODEL_FORMAT}/file').content
        assert len(content) == loop.models()[1]['files'][MODEL_FORMAT]['size']


def snapshot(loop: MockLoopProcess) -> list[object]:
    detections = loop.http.get(f'/mock/projects/{loop.organization}/{loop.project}/detections').json()
    pictures = [loop.jpeg(image['id']) for image in loop.images()]
    return [loop.models(), loop.target(), loop.images(), loop.detectors(), detections, pictures]


@pytest.mark.integration
def test_a_kill_during_uploads_loses_no_confirmed_upload(tmp_path: Path) -> None:
    """Each upload that was answered with 200 is complete after a kill."""
    with running_mock_loop(tmp_path / 'loop') as loop:
        confirmed: list[str] = []

        def send() -> None:
            try:
                with httpx.Client() as client:
                    for index in range(10_000):
                        name = f'{threading.get_ident()}-{index}'
                        client.post(f'{loop.url}{loop.api}/images', files={'files': (f'{name}.jpg', CARD)})
                        confirmed.append(name)
            except httpx.TransportError:
                pass

        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        time.sleep(0.5)
        loop.kill()
        for sender in senders:
            sender.join()
        loop.start()
        assert len(confirmed) > 5
        found = loop.images()
        assert set(confirmed) <= {image['name'] for image in found}
        assert {loop.jpeg(image['id']) for image in found} == {CARD}
        assert not list(loop.folder.rglob('.partial-*'))


def test_an_interrupted_seeding_is_repeated(tmp_path: Path) -> None:
    """A project without its model is seeded again; a deleted project does not return."""
    LoopStore(tmp_path).create('zauberzeug', 'wholebody', [])
    seed_once(LoopStore(tmp_path))
    store = LoopStore(tmp_path)
    state = store.project('zauberzeug', 'wholebody').state
    assert state.target == state.models[0].id
    store.delete('zauberzeug', 'wholebody')
    seed_once(LoopStore(tmp_path))
    assert LoopStore(tmp_path).projects() == []


def test_versions_continue_from_the_highest(tmp_path: Path) -> None:
    """Minor versions count as whole numbers, and each training has its own major version."""
    project = LoopStore(tmp_path).create('o', 'p', [])
    package = make_package(tmp_path / 'package.zip')
    assert project.next_version() == '1.0'
    for version in ('1.9', '1.10', 'odd'):
        project.add_model(package, model_format='f', version=version)
    assert project.next_version() == '1.11'
    assert project.next_version('7') == '7.0'
    project.add_model(package, model_format='f', training='7')
    assert project.next_version('7') == '7.1'
    assert project.next_version('None') == '7.1'


def test_names_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    """Organizations, projects and formats become folders and files, so they must be plain names."""
    store = LoopStore(tmp_path / 'loop')
    for name in ('..', '.', '', 'a/b', 'a\\b', 'x' * 101):
        with pytest.raises(LoopError, match='is not a name'):
            store.create(name, 'p', [])
        with pytest.raises(LoopError, match='is not a name'):
            store.create('o', name, [])
    project = store.create('o', 'p', [])
    with pytest.raises(LoopError, match='is not a name'):
        project.add_model(make_package(tmp_path / 'package.zip'), model_format='../f')
    with pytest.raises(Conflict):
        store.create('o', 'p', [])
    store.delete('o', 'p')
    with pytest.raises(Unknown):
        store.project('o', 'p')
    assert LoopStore(tmp_path / 'loop').projects() == []
