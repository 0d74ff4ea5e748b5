"""Requests that carry images to the Loop, and the meaning of their answers."""

import email.utils
import shutil
import time
from pathlib import Path

import pytest
from aiohttp import web

from benchmarks.support.waiting import eventually_async
from detector.outbox import posting as outbox_post
from detector.outbox.outbox import Outbox
from tests.support.outboxes import Script, fill, until_empty


async def test_requests_are_those_of_upstream(
    tmp_path: Path, script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests have the same parts as those of learning_loop_node, with the same order, names and types."""
    from learning_loop_node.detector.outbox import Outbox as UpstreamOutbox
    from learning_loop_node.globals import GLOBALS

    await fill(outbox, 3)
    shutil.copytree(tmp_path / 'outbox', tmp_path / 'data' / 'outbox')
    monkeypatch.setattr(GLOBALS, 'data_folder', str(tmp_path / 'data'))
    for name in ('LOOP_HOST', 'LOOP_ORGANIZATION', 'LOOP_PROJECT'):
        monkeypatch.setenv(name, 'x')
    theirs = UpstreamOutbox()
    theirs.target_uri = script.url
    await theirs.upload()
    parts, script.parts = script.parts, []
    assert len(parts) == 6
    await outbox.start()
    await until_empty(outbox)
    pairs, theirs_in_pairs = ([tuple(found[i : i + 2]) for i in range(0, 6, 2)] for found in (script.parts, parts))
    assert sorted(pairs) == sorted(theirs_in_pairs), 'metadata first, then its image'


@pytest.mark.parametrize('status', [200, 201, 204])
async def test_success_is_any_2xx(script: Script, outbox: Outbox, status: int) -> None:
    """Every 2xx counts as success; upstream would repeat forever a request that a Loop answers with 201."""

    async def answer(_: list[str]) -> web.Response:
        return web.Response(status=status)

    script.answer = answer
    await fill(outbox, 2)
    await outbox.start()
    await until_empty(outbox)
    assert outbox.about()['uploaded'] == 2


async def test_a_captive_portal_does_not_swallow_images(script: Script, outbox: Outbox) -> None:
    """Status 200 with an HTML page does not count as success, and redirects are not followed."""

    async def page(_: list[str]) -> web.Response:
        return web.Response(text='<html>Welcome to our hotel</html>', content_type='text/html')

    async def elsewhere(_: list[str]) -> web.Response:
        return web.Response(status=307, headers={'Location': script.url})

    await fill(outbox, 2)
    for answer in (page, elsewhere):
        script.answer = answer
        seen = len(script.batches)
        await outbox.start()
        await eventually_async(lambda seen=seen: len(script.batches) >= seen + 3)  # type: ignore[misc]
        await outbox.close()
    about = outbox.about()
    assert (about['found'], about['uploaded'], about['waiting']) == (2, 0, 2)
    assert 'answers 307' in about['error']


@pytest.mark.parametrize(('header', 'seconds'), [('7', 7), ('0', 0), ('soon', 0), ('-5', 0), ('', 0), ('٣', 0)])
async def test_retry_after_is_read(header: str, seconds: float) -> None:
    """Seconds in Retry-After are read, and a value that is neither seconds nor a date counts as 0."""
    assert outbox_post._seconds(header) == seconds


async def test_retry_after_may_be_a_date() -> None:
    """A future date in Retry-After gives the seconds until then, and a past one gives 0."""
    assert 50 < outbox_post._seconds(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert outbox_post._seconds(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0
