"""The mock Loop as one application."""

from benchmarks.support.loops import MockLoopProcess


def test_the_openapi_page_has_a_summary_for_every_route(loop: MockLoopProcess) -> None:
    """Every operation has a summary, and the tags separate the Loop's paths from the mock's."""
    paths = loop.http.get('/openapi.json').json()['paths']
    assert {path.split('/')[1] for path in paths} == {'api', 'mock'}
    operations = [operation for path in paths.values() for operation in path.values()]
    assert len(operations) > 35
    assert all(operation['summary'] and operation['description'] for operation in operations)
    assert loop.http.get('/docs').status_code == 200
    assert loop.http.get('/').headers['location'] == '/ui/'
