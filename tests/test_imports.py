"""The libraries that an import loads."""

import subprocess
import sys

import pytest

from benchmarks.support.processes import PROJECT


def loaded_by(statement: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has loaded after a statement."""
    code = f'{statement}\nimport sys\nprint("\\n".join(sys.modules))'
    process = subprocess.run([sys.executable, '-c', code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return set(process.stdout.split())


@pytest.mark.parametrize(
    ('statement', 'unwanted'),
    [
        ('import detector', {'cv2', 'numpy', 'pydantic', 'typer', 'fastapi', 'learning_loop_node', 'onnxruntime'}),
        ('import detector.settings', {'cv2', 'numpy', 'fastapi', 'learning_loop_node'}),
        ('import detector.outbox.outbox', {'fastapi', 'onnxruntime', 'rtmlib', 'openvino'}),
        ('import detector.pose.overlay', {'pydantic', 'fastapi', 'learning_loop_node', 'onnxruntime', 'openvino'}),
        (
            'import detector.cli.main',
            {'cv2', 'numpy', 'pydantic', 'fastapi', 'httpx', 'learning_loop_node', 'onnxruntime'},
        ),
        ('import detector.engine.pose_engine', {'fastapi', 'learning_loop_node', 'openvino', 'typer'}),
    ],
)
def test_an_import_loads_no_library_that_it_does_not_need(statement: str, unwanted: set[str]) -> None:
    """Commands start fast because a module loads only what it uses."""
    loaded = loaded_by(statement)
    assert statement.split()[1] in loaded
    assert not loaded & unwanted
