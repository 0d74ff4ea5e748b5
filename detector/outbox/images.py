"""Reads waiting images for the REST routes and the page."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from detector.errors import NotFound, WholebodyError
from detector.pose import images
from detector.pose.images import Image

from .files import Entry
from .outbox import Outbox

_drawing: Final = asyncio.Semaphore(1)


async def read(outbox: Outbox, name: str, reader: Callable[[Entry], bytes]) -> bytes:
    """Read a file of a waiting image.

    A damaged image is answered with 500 by REST and page alike: no other request would succeed, and monitoring must see
    it. 404 would mean that the image has been sent.

    :param reader: reads the file; runs in a thread.
    :raises NoLearningLoop: the node has no outbox.
    :raises NotFound: no image of this name waits, or it has just been sent.
    :raises WholebodyError: the image waits, but its files are unreadable or exceed the limits of this node.
    """
    entry = outbox.queue.find(name)
    if entry is None:
        raise _not_found(name)
    try:
        return await asyncio.to_thread(reader, entry)
    except FileNotFoundError:
        raise _not_found(name) from None
    except Exception as error:  # other programs may write to the folder, so any error is possible
        why = str(error) if isinstance(error, WholebodyError) else repr(error)
        raise WholebodyError(
            f'the image {name!r} waits in the outbox, but it or its metadata is damaged: {why}'
        ) from error


async def draw(outbox: Outbox, name: str, how: Callable[[Image, dict[str, Any]], bytes], *, max_pixels: int) -> bytes:
    """Make a picture of a waiting image. Only one picture is made at a time, so that frames are not delayed.

    :param how: makes the picture from the RGB array H×W×3 and the metadata; runs in a thread.
    :raises WholebodyError: see `read`.
    """

    def drawn(entry: Entry) -> bytes:
        return how(images.decode_image(entry.jpeg.read_bytes(), max_pixels=max_pixels), metadata_of(entry))

    async with _drawing:
        return await read(outbox, name, drawn)


def metadata_of(entry: Entry) -> dict[str, Any]:
    """Return the metadata of an image as the outbox will send it.

    :raises OSError: the file cannot be read.
    :raises ValueError: the file does not contain JSON.
    """
    metadata: dict[str, Any] = json.loads(entry.metadata.read_bytes())
    return metadata


def _not_found(name: str) -> NotFound:
    return NotFound(f'no image {name[:80]!r} waits in the outbox; it may have been sent')
