"""Schemathesis checks that a real node keeps its own OpenAPI document."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.idle_memory import resident_mib
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.studio import running_studio
from tests.support import fuzz_budget as budget

pytestmark = pytest.mark.integration

ANSWER_SECONDS = 5
CHECKS = (
    'not_a_server_error',
    'status_code_conformance',
    'content_type_conformance',
    'response_headers_conformance',
    'response_schema_conformance',
    'negative_data_rejection',
    'missing_required_header',
    'unsupported_method',
)
"""Checks of schemathesis, without `positive_data_acceptance`, which would require that any bytes are an image."""


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Start a node with a Loop and a Label Studio, so that every route has an effect."""
    folder = tmp_path_factory.mktemp('document')
    with running_mock_loop(folder / 'loop') as loop, running_studio() as studio:
        settings = {'UPLOAD_SECONDS': 0.5, 'POLL_SECONDS': 1, 'IMAGE_HOSTS': 'none'} | loop.settings | studio.settings
        with running_node(folder / 'node', **settings) as running:
            running.wait_for_version('1.0')
            yield running


def explore(node: NodeProcess, seconds: int, folder: Path, *, seed: int) -> None:
    """Let schemathesis try all routes for a time in seconds.

    :param seed: seed of the requests; ignored with WHOLEBODY_FUZZ_SECONDS, so that each of those runs differs.
    """
    command = [
        *(sys.executable, '-m', 'schemathesis.cli', 'run', f'{node.url}/openapi.json', '--no-color'),
        *('--checks', ','.join(CHECKS), '--request-timeout', str(ANSWER_SECONDS)),
        *('--max-time', str(seconds), '--max-examples', str(2 * seconds)),
        *(() if budget.FUZZ_SECONDS else ('--seed', str(seed))),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds + 120, check=False)
    assert done.returncode == 0, done.stdout[-12_000:]


def test_the_node_does_what_its_document_says(node: NodeProcess, tmp_path: Path) -> None:
    """Each answer is documented, no 500 and within 5 s, invalid requests are refused, and the node does not grow.

    The first part loads everything that the node keeps. The memory is compared after it.
    """
    seconds = budget.seconds(50)
    first = min(60, seconds // 2)
    explore(node, first, tmp_path, seed=1)
    before = resident_mib(node.process.pid)
    explore(node, seconds - first, tmp_path, seed=2)
    assert httpx.get(f'{node.url}/ready', timeout=ANSWER_SECONDS).status_code == 200
    assert resident_mib(node.process.pid) < 1.1 * before + 32
    assert 'Traceback' not in node.log.read_text()
