from collections.abc import Iterator

import pytest

from benchmarks.support.processes import NodeProcess, running_node
from tests.support.access import ALLOWED, TOKEN


@pytest.fixture(scope='module')
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that asks for a token, and logs no traceback whatever its clients do."""
    settings = {'API_TOKEN': TOKEN, 'USE_BACKDOOR_CONTROLS': 1, 'CORS_ORIGINS': ALLOWED}
    with running_node(tmp_path_factory.mktemp('closed'), **settings) as running:
        yield running
        assert 'Traceback' not in running.log.read_text()
