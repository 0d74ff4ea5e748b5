"""Images that wait in the outbox, as the REST routes and the page show them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from detector.errors import NoLearningLoop, NotFound, WholebodyError
from detector.pose import images
from detector.pose.images import Image

from .files import Entry
from .outbox import NoOutbox, Outbox

_drawing: Final = asyncio.Semaphore(1)


async def read(outbox: Outbox | NoOutbox, name: str, what: Callable[[Entry], bytes]) -> bytes:
    """Something of an image that waits.

    What waits but is damaged is answered with 500, for REST and page alike: no other request would do better, and
    whoever watches the node shall see it. 404 would say that the image has been sent.

    :param what: reads it, in a thread.
    :raises NoLearningLoop: there is no outbox.
    :raises NotFound: no image of this name waits (any more).
    :raises WholebodyError: it waits, but its files cannot be read, or not by this node's limits.
    """
    if isinstance(outbox, NoOutbox):
        raise NoLearningLoop('The outbox')
    entry = outbox.queue.find(name)
    if entry is None:
        raise _not_there(name)
    try:
        return await asyncio.to_thread(what, entry)
    except FileNotFoundError:
        raise _not_there(name) from None
    except Exception as error:  # whatever others put there
        why = str(error) if isinstance(error, WholebodyError) else repr(error)
        raise WholebodyError(
            f'the image {name!r} waits in the outbox, but it or its metadata is damaged: {why}'
        ) from error


async def draw(
    outbox: Outbox | NoOutbox, name: str, how: Callable[[Image, dict[str, Any]], bytes], *, max_pixels: int
) -> bytes:
    """A picture that is made of an image that waits; one at a time, since nobody's frame shall wait for that.

    :param how: makes it of the RGB array H×W×3 and the metadata, in a thread.
    :raises WholebodyError: as `read`.
    """

    def drawn(entry: Entry) -> bytes:
        return how(images.decode(entry.jpeg.read_bytes(), max_pixels=max_pixels), metadata_of(entry))

    async with _drawing:
        return await read(outbox, name, drawn)


def metadata_of(entry: Entry) -> dict[str, Any]:
    """The metadata of an image, as it will be sent.

    :raises OSError: the file cannot be read.
    :raises ValueError: it holds no JSON.
    """
    metadata: dict[str, Any] = json.loads(entry.metadata.read_bytes())
    return metadata


def _not_there(name: str) -> NotFound:
    return NotFound(f'no image {name[:80]!r} waits in the outbox; it may have been sent')
