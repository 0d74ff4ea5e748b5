"""What the page shows beside text: poses of an image, pictures of the outbox. REST routes below `/ui`."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from detector.api.routes import ImageFile, grouped_poses
from detector.models.embedded import EXAMPLE_CARD
from detector.outbox import images as outbox_images
from detector.outbox.files import Entry

from .pictures import poses_of_picture, thumbnail

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

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
    node = _node(request)
    small = await outbox_images.draw(
        node.outbox,
        name,
        partial(thumbnail, confidence_threshold=node.settings.confidence_threshold),
        max_pixels=node.settings.max_image_pixels,
    )
    return Response(small, media_type='image/jpeg', headers=_FOR_GOOD)


@router.get('/outbox/{name}/image')
async def outbox_image(request: Request, name: str) -> Response:
    """An image that waits, as it will be sent."""
    jpeg = await outbox_images.read(_node(request).outbox, name, lambda entry: entry.jpeg.read_bytes())
    return Response(jpeg, media_type='image/jpeg', headers=_FOR_GOOD)


@router.get('/outbox/{name}/poses')
async def outbox_poses(request: Request, name: str) -> Response:
    """The poses of an image that waits, as `POST /poses` answers."""
    node = _node(request)
    max_pixels = node.settings.max_image_pixels

    def read(entry: Entry) -> bytes:
        return poses_of_picture(entry.jpeg.read_bytes(), outbox_images.metadata_of(entry), max_pixels=max_pixels)

    return Response(await outbox_images.read(node.outbox, name, read), media_type='application/json')
