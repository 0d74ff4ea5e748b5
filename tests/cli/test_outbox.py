"""`wholebody outbox`."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.processes import NodeProcess, free_port, running_node
from benchmarks.support.waiting import eventually
from detector.cli.main import app
from detector.errors import WholebodyError
from tests.support.commands import invoke, succeed


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that sends images to a mock Loop every 0.1 s."""
    with (
        running_mock_loop(tmp_path / 'loop') as loop,
        running_node(tmp_path / 'node', UPLOAD_SECONDS=0.1, **loop.settings) as node,
    ):
        yield node


def test_the_commands_list_export_and_clear(
    learner: NodeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands read the folder of this machine or a running node, which counts cleared images as vanished."""
    monkeypatch.setenv('DATA_FOLDER', str(learner.data_folder))
    assert (
        succeed(app, 'outbox', 'list') == succeed(app, 'outbox', 'list', '--url', learner.url) == '0 images, 0.0 MiB\n'
    )
    httpx.put(f'{learner.url}/outbox_mode', content='stopped')
    vanished = learner.outbox()['vanished']
    for source in ('first', 'second'):
        httpx.post(f'{learner.url}/upload?source={source}', files={'files': CARD})
    for url in ([], ['--url', learner.url]):
        table = succeed(app, 'outbox', 'list', *url)
        assert '2 images, ' in table
        assert table.index('second') < table.index('first')
        listed = [json.loads(line) for line in succeed(app, 'outbox', 'list', '--json', *url).splitlines()]
        assert [image['source'] for image in listed] == ['second', 'first']
        target = tmp_path / f'export{len(url)}'
        assert '2 images' in succeed(app, 'outbox', 'export', target, *url)
        assert sorted(path.suffix for path in target.iterdir()) == ['.jpg', '.jpg', '.json', '.json']
        assert all(path.read_bytes() == CARD for path in target.glob('*.jpg'))
    (metadata, *_) = (learner.data_folder / 'outbox').rglob('*.json')
    metadata.write_text('{"tags": [null], "source": 7}')
    assert 'None' in succeed(app, 'outbox', 'list')
    assert invoke(app, 'outbox', 'clear').exit_code == 1, 'clear needs --yes or an answer'
    assert succeed(app, 'outbox', 'clear', '--yes') == '2 images deleted\n'
    assert succeed(app, 'outbox', 'list') == '0 images, 0.0 MiB\n'
    httpx.put(f'{learner.url}/outbox_mode', content='continuous_upload')
    eventually(lambda: learner.outbox()['vanished'] == vanished + 2)
    for address, message in (
        (f'http://127.0.0.1:{free_port()}', 'no answer from'),
        ('http://x:y', 'is not an address'),
    ):
        error = invoke(app, 'outbox', 'list', '--url', address).exception
        assert isinstance(error, WholebodyError)
        assert message in str(error)
