"""The REST routes of the outbox: upload images, list the waiting images, start and stop sending."""

import asyncio
import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, File, Header, Path, Query, Request, UploadFile
from fastapi.responses import PlainTextResponse, Response

from detector.outbox import images as outbox_images
from detector.outbox.outbox import Outbox
from detector.pose import images, overlay
from detector.pose.images import Image
from detector.pose.pose import poses_from_metadata
from detector.service import OutboxControl, UploadRequest, Uploads
from detector.settings import Settings

from .header_text import HeaderText, check_single
from .openapi import IMAGE_ERRORS, errors

MAX_LISTED: Final = 100_000
"""Maximum number of images in one listing."""
ImageName = Annotated[str, Path(description='Name of the image, as `GET /outbox` lists it')]
_SOURCE: Final = 'Where the images come from'
_CREATION_DATE: Final = 'When the images were taken, ISO 8601'
_PRIORITY: Final = 'Send these images before those of normal priority, and never drop them'


async def _upload_request(
    request: Request,
    source: Annotated[str | None, Query(description=_SOURCE)] = None,
    creation_date: Annotated[str | None, Query(description=_CREATION_DATE)] = None,
    upload_priority: Annotated[bool | None, Query(description=_PRIORITY)] = None,
    header_source: Annotated[HeaderText | None, Header(alias='source', description=_SOURCE)] = None,
    header_creation_date: Annotated[str | None, Header(alias='creation_date', description=_CREATION_DATE)] = None,
    hyphen_creation_date: Annotated[str | None, Header(alias='creation-date', include_in_schema=False)] = None,
    header_upload_priority: Annotated[bool | None, Header(alias='upload_priority', description=_PRIORITY)] = None,
    hyphen_upload_priority: Annotated[bool | None, Header(alias='upload-priority', include_in_schema=False)] = None,
) -> UploadRequest:
    for names in (('source',), ('creation_date', 'creation-date'), ('upload_priority', 'upload-priority')):
        check_single(request, *names)
    priorities = (upload_priority, header_upload_priority, hyphen_upload_priority)
    return UploadRequest.parse(
        {
            'source': source or header_source,
            'creation_date': creation_date or header_creation_date or hyphen_creation_date,
            'upload_priority': next((priority for priority in priorities if priority is not None), False),
        }
    )


def create_router(uploads: Uploads, control: OutboxControl, outbox: Outbox, settings: Settings) -> APIRouter:
    """Return the routes of this outbox."""
    router = APIRouter(tags=['outbox'])

    @router.post('/upload', responses=errors(*IMAGE_ERRORS, 409))
    async def upload(
        files: Annotated[list[UploadFile], File(description='JPEG, PNG or WebP; one or more')],
        request: Annotated[UploadRequest, Depends(_upload_request)],
    ) -> dict[str, Any]:
        """Queue images for the Learning Loop, tagged `picked_by_system`.

            curl -F files=@a.jpg -F files=@b.jpg 'localhost:8004/upload?source=test&upload_priority=true'

        `source`, `creation_date` and `upload_priority` may be headers too. If one file is not an image, none is
        accepted. The answer gives the names under which the images will arrive.
        """
        names = await uploads.upload([await file.read() for file in files], request)
        return {'status': 'OK', 'names': names}

    @router.get('/outbox', responses=errors(409, 422))
    async def get_outbox(
        limit: Annotated[int, Query(ge=0, le=MAX_LISTED, description='Maximum number of images to list')] = 100,
        offset: Annotated[int, Query(ge=0, description='Number of images to skip')] = 0,
    ) -> Response:
        """List the images that wait for the Learning Loop, in the order of sending, and count the others."""
        listing = await asyncio.to_thread(control.listing, limit=limit, offset=offset)
        return Response(json.dumps(listing), media_type='application/json')  # ASCII, whatever the metadata contain

    @router.get(
        '/outbox/{name}/image',
        response_class=Response,
        responses={200: {'content': {'image/jpeg': {}}}, **errors(404, 409, 422, 500)},
    )
    async def get_outbox_image(
        name: ImageName, skeletons: Annotated[bool, Query(description='Draw the skeletons')] = False
    ) -> Response:
        """Return an image that waits, unchanged or with its skeletons drawn over it.

        curl 'localhost:8004/outbox/2026-01-31_12:00:00.000000/image?skeletons=true' -o image.jpg
        """
        if skeletons:
            jpeg = await outbox_images.draw(outbox, name, draw_skeletons, max_pixels=settings.max_image_pixels)
        else:
            jpeg = await outbox_images.read(outbox, name, lambda entry: entry.jpeg.read_bytes())
        return Response(jpeg, media_type='image/jpeg')

    def draw_skeletons(picture: Image, stored: dict[str, Any]) -> bytes:
        poses = poses_from_metadata(stored)
        drawn = overlay.draw_poses(picture, poses, confidence_threshold=settings.confidence_threshold)
        return images.encode_jpeg(drawn, quality=90)

    @router.get('/outbox/{name}/metadata', responses=errors(404, 409, 500))
    async def get_outbox_metadata(name: ImageName) -> Response:
        """Return the metadata of an image that waits."""
        stored = await outbox_images.read(outbox, name, lambda entry: entry.metadata.read_bytes())
        return Response(stored, media_type='application/json')

    @router.get('/outbox_mode', response_class=PlainTextResponse)
    async def get_outbox_mode() -> str:
        """Return `continuous_upload` or `stopped`."""
        return control.mode()

    @router.put('/outbox_mode', responses=errors(409, 422))
    async def put_outbox_mode(request: Request) -> str:
        """Start or stop sending to the Loop.

        curl -X PUT -d stopped localhost:8004/outbox_mode
        """
        await control.set_mode((await request.body()).decode())
        return 'OK'

    return router
