"""The end of a node, in order: requests, the outbox and the rest; `server` sees to it that it comes in time."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from detector.api.middleware.drain import RUNNING_SECONDS
from detector.outbox.outbox import NoOutbox

if TYPE_CHECKING:
    from .wholebody_node import WholebodyNode

log = logging.getLogger('wholebody.node')

END_SECONDS: Final = 2.5
"""So long outbox and corrections may take; whatever the disk does then, what was accepted is on it."""
ALL_SECONDS: Final = 6.5
"""From the beginning of the end; shortly after, `server` ends the process."""


async def finish_requests(node: 'WholebodyNode') -> None:
    """Let what runs be answered; meanwhile nothing is sent any more, and no model changes."""
    node.drain.begin()
    node.label_studio.preannotator.end_by(node.drain.deadline(RUNNING_SECONDS / 2))
    stopping = asyncio.create_task(_stop_background(node))
    await node.drain.finish()
    if not stopping.done():
        log.debug('the outbox or the model is still being stopped')


async def end(node: 'WholebodyNode') -> None:
    """Stop the rest; what is on its way to the disk gets there, if the disk lets it."""
    node.drain.begin()
    ends = [_stop_background(node), node.label_studio.close(), node.sio.shutdown()]
    if node.collector is not None:
        ends.append(node.collector.close())
    seconds = max(0.1, min(END_SECONDS, ALL_SECONDS - node.drain.seconds))
    done, late = await asyncio.wait([asyncio.create_task(end) for end in ends], timeout=seconds)
    for task in done:
        if (error := task.exception()) is not None:
            log.error('something did not end as it should', exc_info=error)
    if late:
        log.warning('not all has ended within %.1f seconds; the disk may be stalled', seconds)
    node.inference.close()
    waiting = 0 if isinstance(node.outbox, NoOutbox) else node.outbox.queue.count
    log.info('ended in %.1f s; %s; %d images wait in the outbox', node.drain.seconds, node.drain.report(), waiting)


async def _stop_background(node: 'WholebodyNode') -> None:
    await asyncio.gather(node.serving.stop(), node.updates.stop(), node.outbox.close())
