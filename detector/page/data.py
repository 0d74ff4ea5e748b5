"""What the page shows beside text: poses of an image, pictures of the outbox. REST routes below `/ui`."""

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from .. import images
from ..embedded import EXAMPLE_CARD
from ..errors import NotFound
from ..outbox import NoOutbox
from ..outbox_files import Entry
from ..routes import ImageFile, grouped_poses
from ..routes_outbox import drawing
from .pictures import poses_of_picture, thumbnail

if TYPE_CHECKING:
    from ..node import WholebodyNode

router = APIRouter()

_FOR_GOOD: Final = {'Cache-Control': 'private, max-age=86400, immutable'}


def _node(request: Request) -> 'WholebodyNode':
    return cast('WholebodyNode', request.app.state.node)


@router.post('/poses')
async def poses(request: Request, file: ImageFile) -> JSONResponse:
    """As `POST /poses`."""
    return await asyncio.to_thread(JSONResponse, await grouped_poses(_node(request), await file.read()))


@router.get('/test-card')
async def test_card() -> FileResponse:
    """The card that the embedded model reads."""
    return FileResponse(EXAMPLE_CARD, media_type='image/jpeg')


@router.get('/outbox/{name}/thumbnail')
async def outbox_thumbnail(request: Request, name: str) -> Response:
    """A small picture of an image that waits, with its skeletons."""
    entry = _find(request, name)
    node = _node(request)

    def draw() -> bytes:
        picture = images.decode(entry.jpeg.read_bytes(), max_pixels=node.settings.max_image_pixels)
        return thumbnail(picture, _metadata(entry), confidence_threshold=node.settings.confidence_threshold)

    async with drawing:
        return Response(await _read(name, draw), media_type='image/jpeg', headers=_FOR_GOOD)


@router.get('/outbox/{name}/image')
async def outbox_image(request: Request, name: str) -> Response:
    """An image that waits, as it will be sent."""
    jpeg = await _read(name, _find(request, name).jpeg.read_bytes)
    return Response(jpeg, media_type='image/jpeg', headers=_FOR_GOOD)


@router.get('/outbox/{name}/poses')
async def outbox_poses(request: Request, name: str) -> Response:
    """The poses of an image that waits, as `POST /poses` answers."""
    entry = _find(request, name)
    max_pixels = _node(request).settings.max_image_pixels

    def read() -> bytes:
        return poses_of_picture(entry.jpeg.read_bytes(), _metadata(entry), max_pixels=max_pixels)

    return Response(await _read(name, read), media_type='application/json')


def _find(request: Request, name: str) -> Entry:
    outbox = _node(request).outbox
    entry = None if isinstance(outbox, NoOutbox) else outbox.queue.find(name)
    if entry is None:
        raise _gone(name)
    return entry


def _gone(name: str) -> NotFound:
    return NotFound(f'the image {name[:80]!r} is not in the outbox any more; it may have been sent')


def _metadata(entry: Entry) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(entry.metadata.read_bytes())
    return metadata


async def _read(name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return await asyncio.to_thread(read)
    except FileNotFoundError:
        raise _gone(name) from None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError) as error:  # others' files
        raise NotFound(f'the image {name[:80]!r} or its metadata cannot be read: {error}') from error
