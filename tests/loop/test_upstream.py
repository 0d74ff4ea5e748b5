import os
from pathlib import Path
from unittest.mock import patch

from learning_loop_node.globals import GLOBALS
from learning_loop_node.helpers import environment_reader

from detector.loop.upstream import apply_settings
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
