"""A real node process follows a real mock Learning Loop, through every fault of the Loop."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.support.cards import CARD, assert_read, poses_of
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import constant_network, make_package, with_network
from benchmarks.support.processes import NodeProcess, free_port, running_node, running_node_without_model
from benchmarks.support.waiting import eventually
from detector.engine.verification import verify
from detector.models.store import ModelStore
from tests.support.load import Load
from tests.support.scrapes import Scrape

CYCLE = 0.5


def about(node: NodeProcess) -> dict[str, Any]:
    return dict(httpx.get(f'{node.url}/about', timeout=10).json())


def set_mode(node: NodeProcess, mode: str) -> httpx.Response:
    return httpx.put(f'{node.url}/model_version', content=mode, timeout=20)


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('loop') / 'data') as running:
        yield running


@pytest.fixture(scope='module')
def follower(loop: MockLoopProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that follows the Loop; every test uploads versions of its own."""
    with running_node(
        tmp_path_factory.mktemp('follower'),
        DEADLINE=60,
        POLL_SECONDS=CYCLE,
        UPLOAD_SECONDS=CYCLE,
        KEEP_MODELS=4,
        **loop.settings,
    ) as node:
        node.wait_for_version('1.0')
        yield node


@pytest.fixture
def packages(tmp_path: Path, loop: MockLoopProcess) -> Iterator[Callable[[], str]]:
    """Upload another version of the test card model and return its number; faults are cleared afterwards."""

    def upload() -> str:
        numbers = [int(model['version'].split('.')[1]) for model in loop.models()]
        version = f'1.{max(numbers) + 1}'
        loop.upload_package(make_package(tmp_path / f'{version}.zip', version=version), version)
        return version

    yield upload
    loop.clear_faults()


FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ('target', 'delay', {'seconds': 2}),
    ('target', 'drop', {}),
    ('target', 'html', {}),
    ('target', 'status', {'status': 401}),
    ('target', 'status', {'status': 500}),
    ('detectors', 'status', {'status': 500}),
    ('detectors', 'drop', {}),
    ('model_file', 'delay', {'seconds': 2}),
    ('model_file', 'status', {'status': 500}),
    ('model_file', 'status', {'status': 413}),
    ('model_file', 'drop', {}),
    ('model_file', 'truncate', {}),
    ('model_file', 'corrupt', {}),
    ('model_file', 'html', {}),
    ('images', 'status', {'status': 413}),
    ('images', 'status', {'status': 422}),
    ('images', 'status', {'status': 429}),
    ('images', 'reject_image', {}),
    ('images', 'drop', {}),
    ('images', 'lose_response', {}),
    ('images', 'delay', {'seconds': 2}),
]
QUICK = (FAULTS[10],)
"""Those that a plain run tries; each takes some seconds."""


@pytest.mark.parametrize(
    ('endpoint', 'kind', 'parameters'),
    [
        pytest.param(*fault, marks=[] if fault in QUICK else pytest.mark.integration, id=' '.join(map(str, fault[:2])))
        for fault in FAULTS
    ],
)
def test_after_a_fault_the_node_reaches_its_target_and_served_throughout(
    follower: NodeProcess,
    loop: MockLoopProcess,
    packages: Callable[[], str],
    endpoint: str,
    kind: str,
    parameters: dict[str, Any],
) -> None:
    """The old model answers during the fault; two cycles after its end the new model does."""
    version = packages()
    with Load(follower) as load:
        fault = loop.fault(endpoint, kind, **parameters)
        loop.set_target(version)
        often = 2 if endpoint in ('target', 'model_file') and kind != 'delay' else 1
        eventually(lambda: loop.fired(fault) >= often or endpoint == 'detectors', 'the fault')
        time.sleep(2 * CYCLE)
        if often == 2:
            assert follower.version != version
        loop.clear_faults()
        follower.wait_for_version(version)
        eventually(lambda: version in load.versions, 'an answer of the new version')
    assert load.failures == []
    assert load.answers > 3
    eventually(lambda: about(follower)['update']['error'] is None, 'an error-free update')


@pytest.mark.parametrize(('kind', 'parameters'), [('no_disposition', {}), ('filename', {'filename': ''}),
                                                  ('filename', {'filename': '../../x'})])  # fmt: skip
def test_what_the_loop_calls_the_file_does_not_matter(
    follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str], kind: str, parameters: dict[str, Any]
) -> None:
    """The node ignores the file name in the header; with upstream a missing header fails, and an empty or climbing name
    would delete or write elsewhere.
    """
    version = packages()
    fault = loop.fault('model_file', kind, **parameters)
    loop.set_target(version)
    follower.wait_for_version(version)
    assert loop.fired(fault) >= 1
    assert not list(follower.data_folder.parent.glob('x*'))


@pytest.mark.integration
def test_too_many_requests_are_waited_out(
    follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str]
) -> None:
    """After 429 the client of the Loop pauses for 5 seconds and tries again."""
    version = packages()
    fault = loop.fault('target', 'status', status=429)
    loop.set_target(version)
    eventually(lambda: loop.fired(fault), 'the fault')
    loop.clear_faults()
    follower.wait_for_version(version)


def test_a_refused_login_is_survived(follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str]) -> None:
    """Sessions expire and the login fails: the node keeps serving, and follows again when it can log in."""
    version = packages()
    fault = loop.fault('login', 'status', status=401)
    loop.expire_sessions()
    loop.set_target(version)
    eventually(lambda: loop.fired(fault) >= 2, 'the fault')
    assert_read(poses_of(follower.detect(CARD).json()))
    loop.clear_faults()
    follower.wait_for_version(version)


@pytest.mark.parametrize(
    'body', [{'model_uuid': 'x'}, {'model_uuid': 'x', 'version': 1.5}, {'version': '1.5'}, [], 'text',
             {'model_uuid': '../../x', 'version': '1.5'}, {'model_uuid': 'x', 'version': '../../x'}],
)  # fmt: skip
def test_a_malformed_target_is_reported_and_changes_nothing(
    follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str], body: Any
) -> None:
    """The detector's status names the fault; the node follows the next valid target."""
    before = follower.version
    loop.set_raw_target(body)

    def reported() -> bool:
        return any('malformed' in status['errors'].get('deployment_target', '') for status in loop.detectors().values())

    eventually(reported, 'a report')
    assert follower.version == before
    assert_read(poses_of(follower.detect(CARD).json()))
    version = packages()
    loop.set_target(version)
    follower.wait_for_version(version)


def test_a_wrong_package_is_refused_once_and_another_file_is_fetched(
    follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str], tmp_path: Path
) -> None:
    """A body model is fetched and reported once; when the Loop offers another file, the node takes it."""
    before = follower.version
    good = packages()
    outputs = {'simcc_x': np.zeros((1, 17, 384)), 'simcc_y': np.zeros((1, 17, 512))}
    network = constant_network(tmp_path / 'body.onnx', outputs, (192, 256))
    bad = f'{good}.1'
    bad_id = loop.upload_package(with_network(tmp_path / 'bad.zip', 'estimator', network), bad)
    loop.set_target(bad)
    eventually(lambda: about(follower)['update']['refused'], 'a refusal')
    (refused,) = about(follower)['update']['refused']
    assert refused['version'] == bad
    assert '17' in refused['reason']
    eventually(
        lambda: any('17' in status['errors'].get('update_model', '') for status in loop.detectors().values()),
        'a report',
    )
    log = follower.log.read_text()
    time.sleep(4 * CYCLE)
    assert follower.version == before
    assert follower.log.read_text().count('cannot switch to model') == log.count('cannot switch to model')
    assert not (follower.data_folder / 'models' / bad).exists()
    loop.delete_model(bad_id)
    loop.upload_package(make_package(tmp_path / 'fixed.zip', version=bad), bad)
    loop.set_target(bad)
    follower.wait_for_version(bad)


def test_versions_are_chosen_by_hand(
    follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str], tmp_path: Path
) -> None:
    """Version, pause and follow work; unknown or ambiguous versions are refused and change nothing."""
    current = follower.version
    version = packages()
    assert set_mode(follower, 'pause').status_code == 200
    loop.set_target(version)
    time.sleep(4 * CYCLE)
    assert follower.version == current
    assert set_mode(follower, '1.0').status_code == 200
    follower.wait_for_version('1.0')
    fault = loop.fault('models', 'status', status=500)
    failing = set_mode(follower, '77.7')
    assert (failing.status_code, 'answers 500' in failing.json()['detail']) == (502, True)
    loop.delete_fault(fault)
    unknown = set_mode(follower, '77.7')
    assert (unknown.status_code, 'no model of version 77.7' in unknown.json()['detail']) == (422, True)
    loop.upload_package(make_package(tmp_path / 'a.zip', version='88.8'), '88.8')
    loop.upload_package(make_package(tmp_path / 'b.zip', version='88.8', name='b'), '88.8', duplicate=True)
    doubled = set_mode(follower, '88.8')
    assert (doubled.status_code, '2 models of version 88.8' in doubled.json()['detail']) == (422, True)
    versions = httpx.get(f'{follower.url}/model_version').json()
    assert versions['version_control'] == 'specific_version'
    assert versions['target_version'] == '1.0'
    with follower.socketio() as client:
        assert client.call('set_model_version_mode', 'follow_loop') == {'status': 'OK'}
    follower.wait_for_version(version)
    for model in loop.models():
        if model['version'] == '88.8':
            loop.delete_model(model['id'])


def test_installed_versions_can_be_chosen_while_the_loop_is_down(
    follower: NodeProcess, loop: MockLoopProcess, packages: Callable[[], str]
) -> None:
    """Other versions are refused with 502; the node follows the Loop again when it is back."""
    version = packages()
    loop.set_target(version)
    follower.wait_for_version(version)
    installed = httpx.get(f'{follower.url}/model_version').json()['local_versions']
    assert version in installed
    assert len(installed) <= 4
    other = next(candidate for candidate in installed if candidate != version)
    loop.stop()
    try:
        assert set_mode(follower, other).status_code == 200
        follower.wait_for_version(other)
        refused = set_mode(follower, '66.6')
        assert refused.status_code == 502
        assert 'does not answer' in refused.json()['detail']
        assert httpx.get(f'{follower.url}/model_version').json()['target_version'] == other
    finally:
        loop.start()
    assert set_mode(follower, 'follow_loop').status_code == 200
    follower.wait_for_version(version)


@pytest.mark.integration
def test_a_deleted_model_folder_is_fetched_again_after_a_restart(
    loop: MockLoopProcess, tmp_path: Path, packages: Callable[[], str]
) -> None:
    """The running node does not need the folder; after a restart it serves an installed model, then the target."""
    settings = {'POLL_SECONDS': CYCLE, **loop.settings}
    with running_node(tmp_path, **settings) as node:
        version = packages()
        loop.set_target(version)
        node.wait_for_version(version)
        for path in (node.data_folder / 'models' / version).iterdir():
            path.unlink()
        (node.data_folder / 'models' / version).rmdir()
        assert_read(poses_of(node.detect(CARD).json()))
        (node.data_folder / 'uuids.json').write_text('{"wholebo')
    with running_node_without_model(tmp_path, **settings) as node:
        node.wait_for_version(version)
        assert_read(poses_of(node.detect(CARD).json()))
        assert (node.data_folder / 'uuids.broken').exists()


@pytest.mark.integration
def test_an_exclusive_build_lets_requests_wait_and_comes_back_from_a_bad_model(
    loop: MockLoopProcess, tmp_path: Path, packages: Callable[[], str]
) -> None:
    """With one model in memory no request fails during a switch, and the old model returns if the new one is bad."""
    settings = {'POLL_SECONDS': CYCLE, 'EXCLUSIVE_MODEL_BUILD': 1, 'DEADLINE': 30, **loop.settings}
    loop.set_target('1.0')
    with running_node(tmp_path, **settings) as node:
        node.wait_for_version('1.0')
        with Load(node) as load:
            version = packages()
            loop.set_target(version)
            node.wait_for_version(version)
            network = constant_network(
                tmp_path / 'b.onnx', {'simcc_x': np.zeros((1, 17, 384)), 'simcc_y': np.zeros((1, 17, 512))}, (192, 256)
            )
            loop.upload_package(with_network(tmp_path / 'bad.zip', 'estimator', network), f'{version}.1')
            loop.set_target(f'{version}.1')
            eventually(lambda: about(node)['update']['refused'], 'a refusal')
            time.sleep(1)
        assert load.failures == []
        assert node.version == version
        assert load.versions == {'1.0', version}
        scrape = Scrape.of_node(node.url)
        assert scrape.by('wholebody_model_switches_total', 'outcome') == {('ok',): 4, ('failed',): 1}
        assert scrape.by('wholebody_model_info', 'version') == {(version,): 1}
    loop.set_target('1.0')


def test_a_pause_in_the_midst_of_an_exclusive_build_leaves_a_model(tmp_path: Path) -> None:
    """The exchange continues to its end however often the mode changes, and one of the two models serves."""
    store = ModelStore(tmp_path / 'data')
    store.install(make_package(tmp_path / 'a.zip', version='1.1'), verify=verify)
    store.install(make_package(tmp_path / 'b.zip', version='1.2'), verify=verify)
    with running_node(tmp_path, POLL_SECONDS=CYCLE, EXCLUSIVE_MODEL_BUILD=1, DEADLINE=30) as node:
        for version in ('1.1', '1.2', '1.1'):
            assert set_mode(node, version).status_code == 200
            for _ in range(3):
                assert set_mode(node, 'pause').status_code == 200
            assert_read(poses_of(node.detect(CARD).json()))
        log = node.log.read_text()
    assert 'Traceback' not in log
    assert 'never retrieved' not in log


def test_without_a_loop_installed_versions_can_be_chosen(tmp_path: Path) -> None:
    """A robot without a Loop goes back to its previous version."""
    store = ModelStore(tmp_path / 'data')
    store.install(make_package(tmp_path / 'a.zip', version='1.1'), verify=verify)
    store.install(make_package(tmp_path / 'b.zip', version='1.2'), verify=verify)
    with running_node(tmp_path, POLL_SECONDS=CYCLE) as node:
        assert node.version == '1.2'
        assert set_mode(node, '1.1').status_code == 200
        node.wait_for_version('1.1')
        assert set_mode(node, '9.9').status_code == 409


@pytest.mark.integration
def test_a_loop_that_was_never_there_does_not_keep_the_node_from_serving(tmp_path: Path) -> None:
    """The embedded model serves although LOOP_HOST refuses connections."""
    settings = {'LOOP_HOST': f'127.0.0.1:{free_port()}', 'LOOP_ORGANIZATION': 'o', 'LOOP_PROJECT': 'p'}
    with running_node(tmp_path, POLL_SECONDS=CYCLE, **settings) as node:
        time.sleep(3 * CYCLE)
        assert_read(poses_of(node.detect(CARD).json()))
        assert 'does not answer' in node.log.read_text()
