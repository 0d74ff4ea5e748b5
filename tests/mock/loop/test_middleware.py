"""The login of the mock Loop."""

import asyncio
from pathlib import Path

import pytest
from learning_loop_node.loop_communication import LoopCommunicationException, LoopCommunicator

from benchmarks.support.cards import CARD
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from detector.models.package import MODEL_FORMAT
from tests.support.mock_loop import send_images


def test_paths_that_need_a_login_answer_401_without(loop: MockLoopProcess) -> None:
    """Posting images and fetching model files need no cookie; all other paths do."""
    model = loop.models()[0]['id']
    loop.http.cookies.clear()
    needing = ['deployment/target', 'models', 'data', 'images', f'images/{model}/main', 'trainings']
    assert {loop.http.get(f'{loop.api}/{path}').status_code for path in needing} == {401}
    assert loop.http.post(f'{loop.api}/detectors', json={}).status_code == 401
    assert loop.http.post('/api/zauberzeug/projects/generator', json={}).status_code == 401
    assert loop.http.delete(loop.api).status_code == 401
    assert loop.http.get('/api/status').status_code == 200
    assert loop.http.get(f'{loop.api}/models/{model}/{MODEL_FORMAT}/file').status_code == 200
    assert send_images(loop, {'a.jpg': CARD}).status_code == 200


def test_login_sets_a_cookie_for_empty_credentials_and_logout_ends_it(loop: MockLoopProcess) -> None:
    """The login answers 200 with Set-Cookie, which nodes require; after logout the answer is 401."""
    answer = loop.login()
    assert answer.status_code == 200
    assert 'session=' in answer.headers['set-cookie']
    assert loop.http.get(f'{loop.api}/models').status_code == 200
    kept = dict(loop.http.cookies)
    assert loop.http.post('/api/logout').status_code == 200
    assert loop.http.get(f'{loop.api}/models', headers={'Cookie': f'session={kept["session"]}'}).status_code == 401
    loop.login()
    loop.expire_sessions()
    assert loop.http.get(f'{loop.api}/models').status_code == 401


async def test_upstreams_communicator_logs_in_again_and_out(
    loop: MockLoopProcess, communicator: LoopCommunicator
) -> None:
    """The real client logs in, logs in again after the session has expired, and logs out."""
    path = '/zauberzeug/projects/wholebody/deployment/target'
    assert (await communicator.get(path)).json()['version'] == '1.0'
    await asyncio.to_thread(loop.expire_sessions)
    assert (await communicator.get(path)).status_code == 200
    assert await communicator.backend_ready(timeout=1)
    await communicator.logout()
    assert not communicator.get_cookies()


async def test_configured_credentials_are_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a user name set, other credentials are answered with 401."""
    with running_mock_loop(tmp_path / 'loop', username='robot', password='secret') as loop:
        assert loop.login().status_code == 401
        assert loop.login('robot', 'wrong').status_code == 401
        assert loop.login('robot', 'secret').status_code == 200
        monkeypatch.setenv('LOOP_HOST', loop.host)
        communicator = LoopCommunicator()
        with pytest.raises(LoopCommunicationException):
            await communicator.ensure_login()
        await communicator.shutdown()
