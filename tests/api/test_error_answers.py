"""Answers to faults of the machine on which the node runs."""

import resource

import httpx
import pytest

from benchmarks.support.processes import NodeProcess


@pytest.mark.parametrize('route', ['detect', 'poses', 'upload'])
def test_a_body_that_no_disk_takes_is_not_the_callers_fault(node: NodeProcess, route: str) -> None:
    """If the folder for temporary files is full, large forms get 507 and small forms work."""
    field = 'files' if route == 'upload' else 'file'
    # first without the limit: a module imported under it would leave a truncated compiled file
    assert httpx.post(f'{node.url}/{route}', files={field: b'x' * 3000}, timeout=30).status_code in (409, 415)
    limits = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        answer = httpx.post(f'{node.url}/{route}', files={field: b'x' * 3_000_000}, timeout=30)
        assert answer.status_code == 507
        assert answer.json()['detail'].startswith(
            "the request cannot be stored in the node's folder for temporary files"
        )
        assert httpx.post(f'{node.url}/{route}', files={field: b'x' * 3000}, timeout=30).status_code in (409, 415)
    finally:
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, limits)


def test_a_broken_form_is_the_callers_fault(node: NodeProcess) -> None:
    """A malformed form gets the same answer as in FastAPI."""
    headers = {'Content-Type': 'multipart/form-data; boundary=x'}
    answer = httpx.post(f'{node.url}/detect', content=b'garbage', headers=headers)
    assert (answer.status_code, 'detail' in answer.json()) == (400, True)
