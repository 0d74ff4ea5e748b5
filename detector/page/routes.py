"""The REST routes below `/ui` that serve the page: poses of an image, and pictures of the outbox."""

import asyncio
from functools import partial
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from detector.api.routes import ImageFile
from detector.models.embedded import EXAMPLE_CARD
from detector.outbox import images as outbox_images
from detector.outbox.files import Entry
from detector.outbox.outbox import Outbox
from detector.service import Detection
from detector.settings import Settings

from .pictures import poses_of_picture, thumbnail

_CACHEABLE: Final = {'Cache-Control': 'private, max-age=86400, immutable'}


def create_router(detection: Detection, outbox: Outbox, settings: Settings) -> APIRouter:
    """Return the routes, to be mounted at `/ui`."""
    router = APIRouter()

    @router.post('/poses')
    async def poses(file: ImageFile) -> JSONResponse:
        """Answer as `POST /poses` does."""
        return await asyncio.to_thread(JSONResponse, await detection.poses(await file.read()))

    @router.get('/test-card')
    async def test_card() -> FileResponse:
        """Send the card that the test card model reads."""
        return FileResponse(EXAMPLE_CARD, media_type='image/jpeg')

    @router.get('/outbox/{name}/thumbnail')
    async def outbox_thumbnail(name: str) -> Response:
        """Send a thumbnail of an image that waits, with its skeletons."""
        draw = partial(thumbnail, confidence_threshold=settings.confidence_threshold)
        small = await outbox_images.draw(outbox, name, draw, max_pixels=settings.max_image_pixels)
        return Response(small, media_type='image/jpeg', headers=_CACHEABLE)

    @router.get('/outbox/{name}/image')
    async def outbox_image(name: str) -> Response:
        """Send an image that waits, unchanged."""
        jpeg = await outbox_images.read(outbox, name, lambda entry: entry.jpeg.read_bytes())
        return Response(jpeg, media_type='image/jpeg', headers=_CACHEABLE)

    @router.get('/outbox/{name}/poses')
    async def outbox_poses(name: str) -> Response:
        """Send the poses of an image that waits, in the form of `POST /poses`."""
        return Response(await outbox_images.read(outbox, name, read_poses), media_type='application/json')

    def read_poses(entry: Entry) -> bytes:
        stored = outbox_images.metadata_of(entry)
        return poses_of_picture(entry.jpeg.read_bytes(), stored, max_pixels=settings.max_image_pixels)

    return router
