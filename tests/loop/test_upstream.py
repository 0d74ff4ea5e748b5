import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from learning_loop_node.globals import GLOBALS
from learning_loop_node.helpers import environment_reader

from detector.errors import InvalidSettings
from detector.loop.upstream import apply_settings, make_way_for_outbox, node_id
from detector.settings import Settings


def test_upstream_sees_our_settings_and_no_others(tmp_path: Path) -> None:
    """HOST and PROJECT, which upstream would read, are removed from the environment."""
    with patch.dict(os.environ, {'HOST': '0.0.0.0', 'PROJECT': 'x'}):
        apply_settings(Settings(data_folder=tmp_path, max_outbox_size=7, loop_host=None, loop_project='p'))
        assert GLOBALS.data_folder == str(tmp_path)
        assert environment_reader.host() == ''
        assert 'HOST' not in os.environ
        assert environment_reader.project() == 'p'
        assert environment_reader.organization() == 'local'
        assert os.environ['MAX_OUTBOX_SIZE'] == '7'
        assert os.environ['EXCLUSIVE_MODEL_BUILD'] == '0'


def test_a_node_keeps_its_id_beside_those_of_others(tmp_path: Path) -> None:
    """The file is upstream's: names in small letters, without spaces."""
    path = tmp_path / 'uuids.json'
    path.write_text('{"other": "an id"}')
    found = node_id(tmp_path, 'My Node')
    assert json.loads(path.read_bytes()) == {'other': 'an id', 'my_node': found}
    assert node_id(tmp_path, 'my node') == found


@pytest.mark.parametrize('content', [b'', b'[]', b'null', 200_000 * b'[', b'{"node": ', b'\xff\xfe\x00'])
def test_an_unreadable_file_of_ids_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The node gets a new id, which it keeps, and the log names both files."""
    path = tmp_path / 'uuids.json'
    path.write_bytes(content)
    found = node_id(tmp_path, 'node')
    assert (tmp_path / 'uuids.broken').read_bytes() == content
    assert node_id(tmp_path, 'node') == found
    assert f'{path} cannot be read and is now called uuids.broken' in caplog.text


@pytest.mark.parametrize('value', ['""', 'null', '7', '{}'])
def test_an_id_of_another_form_is_replaced(tmp_path: Path, value: str) -> None:
    """Upstream would read an empty id as none, and the file in a way that fails."""
    (tmp_path / 'uuids.json').write_text(f'{{"node": {value}, "other": "an id"}}')
    found = node_id(tmp_path, 'node')
    assert json.loads((tmp_path / 'uuids.json').read_bytes()) == {'node': found, 'other': 'an id'}


def test_a_node_starts_even_if_its_id_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that the next start gets another id."""
    (tmp_path / 'uuids.json').mkdir()
    (tmp_path / 'uuids.broken').mkdir()
    (tmp_path / 'uuids.broken' / 'file').touch()
    assert node_id(tmp_path, 'node') != node_id(tmp_path, 'node')
    assert 'this node has another id at its next start' in caplog.text


@pytest.mark.parametrize('name', ['outbox', 'outbox/normal', 'outbox/priority'])
def test_a_file_in_place_of_the_outbox_is_set_aside(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it; if it cannot be moved, the error names it."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('content')
    make_way_for_outbox(tmp_path)
    aside = path.with_name(f'{path.name}.broken')
    assert (aside.read_text(), path.exists()) == ('content', False)
    assert f'{path} was not a folder and is now called {aside.name}' in caplog.text
    aside.unlink()
    aside.mkdir()
    path.touch()
    with pytest.raises(InvalidSettings, match=f'{path} is not a folder and cannot be moved: Is a directory'):
        make_way_for_outbox(tmp_path)
