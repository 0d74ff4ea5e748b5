"""The outbox: images on their way to the Learning Loop."""

import logging
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
from learning_loop_node.detector.outbox import Outbox
from learning_loop_node.enums import OutboxMode
from learning_loop_node.helpers.misc import ImageData

from .errors import NoLearningLoop

log = logging.getLogger('wholebody.outbox')


class LoopOutbox(Outbox):
    """Upstream's outbox at the configured address, its certificate checked as for everything else.

    :param project_url: address of the Loop's project.
    """

    def __init__(self, project_url: str, ssl_context: ssl.SSLContext) -> None:
        super().__init__()
        self.target_uri = f'{project_url}/images'
        self._ssl_context = ssl_context

    async def _upload_batch(self, items: list[str]) -> None:
        """Post a batch; split it when the Loop finds one of its images faulty."""
        status = await self._post([Path(item) for item in items])
        if status == 200:
            self.upload_counter += len(items)
            for item in items:
                await self._clear_item(item)
        elif status == 422 and len(items) == 1:
            log.error('the Learning Loop finds %s faulty; it is dropped', items[0])
            await self._clear_item(items[0])
        elif status == 422:
            await self._upload_batch(items[: len(items) // 2])
            await self._upload_batch(items[len(items) // 2 :])
        else:
            log.warning('the Learning Loop answers %s to %d images; they stay in the outbox', status, len(items))

    async def _post(self, folders: list[Path]) -> int | str:
        """The status of the answer, or what went wrong on the way."""
        with ExitStack() as stack:
            form = aiohttp.FormData()
            for folder in folders:
                for ending, kind in (('json', 'text/plain; charset=utf-8'), ('jpg', 'image/jpeg')):
                    file = stack.enter_context((folder / f'image_{folder.name}.{ending}').open('rb'))
                    form.add_field('files', file, filename=f'image_{folder.name}.{ending}', content_type=kind)
            timeout = aiohttp.ClientTimeout(total=self.UPLOAD_TIMEOUT_S)
            connector = aiohttp.TCPConnector(ssl=self._ssl_context)
            try:
                async with (
                    aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
                    session.post(self.target_uri, data=form, allow_redirects=False) as response,
                ):
                    await response.read()
                    return response.status
            except (aiohttp.ClientError, TimeoutError) as error:
                return str(error) or type(error).__name__


class NoOutbox(Outbox):
    """The outbox of a node without a Loop: nothing is stored, nothing is sent."""

    async def save(self, image: ImageData, image_metadata: Any = None, upload_priority: bool = False) -> None:
        raise NoLearningLoop('The outbox')

    async def set_mode(self, mode: OutboxMode | str) -> None:
        if OutboxMode(mode) == OutboxMode.CONTINUOUS_UPLOAD:
            raise NoLearningLoop('An upload')
