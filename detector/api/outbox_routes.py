"""The REST routes of the outbox: putting images in, looking at what waits, starting and stopping."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import APIRouter, File, Header, Query, Request, UploadFile
from fastapi.responses import PlainTextResponse, Response
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata

from detector.errors import InvalidRequest
from detector.loop import metadata
from detector.outbox import images as outbox_images
from detector.outbox.outbox import Outbox, OutboxMode
from detector.pose import images, overlay
from detector.pose.images import Image
from detector.pose.pose import poses_from_metadata

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

router = APIRouter(tags=['outbox'])

MAX_LISTED = 100_000


def _node(request: Request) -> 'WholebodyNode':
    return cast('WholebodyNode', request.app)


# ---------------------------------------------------------------- in


@router.post('/upload')
async def upload(
    request: Request,
    files: Annotated[list[UploadFile], File(description='JPEG, PNG or WebP; one or more')],
    source: str | None = None,
    creation_date: Annotated[str | None, Query(description='ISO 8601')] = None,
    upload_priority: bool | None = None,
    header_source: Annotated[str | None, Header(alias='source')] = None,
    header_creation_date: Annotated[str | None, Header(alias='creation_date')] = None,
    hyphen_creation_date: Annotated[str | None, Header(alias='creation-date', include_in_schema=False)] = None,
    header_upload_priority: Annotated[bool | None, Header(alias='upload_priority')] = None,
    hyphen_upload_priority: Annotated[bool | None, Header(alias='upload-priority', include_in_schema=False)] = None,
) -> dict[str, Any]:
    """Queue images for the Learning Loop, tagged `picked_by_system`.

        curl -F files=@a.jpg -F files=@b.jpg 'localhost:8004/upload?source=test&upload_priority=true'

    `source`, `creation_date` and `upload_priority` may be headers too. All are accepted, or none is if one is no image;
    the answer gives the names under which they will arrive.
    """
    created = creation_date or header_creation_date or hyphen_creation_date
    if created is not None:
        metadata.check_date(created)
    priorities = (upload_priority, header_upload_priority, hyphen_upload_priority)
    names = await _node(request).upload_images(
        images=[await file.read() for file in files],
        images_metadata=ImagesMetadata(items=[_metadata(source or header_source, created) for _ in files]),
        upload_priority=next((priority for priority in priorities if priority is not None), False),
    )
    return {'status': 'OK', 'names': names}


def _metadata(source: str | None, created: str | None) -> ImageMetadata:
    """Created now, if nothing else is said."""
    return ImageMetadata(source=source) if created is None else ImageMetadata(source=source, created=created)


# ---------------------------------------------------------------- what waits


@router.get('/outbox')
async def get_outbox(
    request: Request,
    limit: Annotated[int, Query(ge=0, le=MAX_LISTED)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """What waits for the Learning Loop, in the order of sending, and what became of the rest."""
    listing = await asyncio.to_thread(_listing, _node(request).outbox, limit, offset)
    return Response(json.dumps(listing), media_type='application/json')  # ASCII, whatever others put there


def _listing(outbox: Outbox, limit: int, offset: int) -> dict[str, Any]:
    waiting = outbox.waiting()
    oldest = min((entry.saved_at for entry in waiting if entry.saved_at is not None), default=None)
    return outbox.about() | {
        'oldest': None if oldest is None else oldest.isoformat(),
        'images': [asdict(entry.describe()) for entry in waiting[offset : offset + limit]],
    }


@router.get('/outbox/{name}/image', response_class=Response, responses={200: {'content': {'image/jpeg': {}}}})
async def get_outbox_image(request: Request, name: str, skeletons: bool = False) -> Response:
    """An image that waits, as it will be sent, or with its skeletons drawn over it.

    curl 'localhost:8004/outbox/2026-01-31_12:00:00.000000/image?skeletons=true' -o image.jpg
    """
    node = _node(request)
    if not skeletons:
        jpeg = await outbox_images.read(node.outbox, name, lambda entry: entry.jpeg.read_bytes())
        return Response(jpeg, media_type='image/jpeg')

    def with_skeletons(picture: Image, stored: dict[str, Any]) -> bytes:
        poses = poses_from_metadata(stored)
        drawn = overlay.draw(picture, poses, confidence_threshold=node.settings.confidence_threshold)
        return images.encode_jpeg(drawn, quality=90)

    max_pixels = node.settings.max_image_pixels
    jpeg = await outbox_images.draw(node.outbox, name, with_skeletons, max_pixels=max_pixels)
    return Response(jpeg, media_type='image/jpeg')


@router.get('/outbox/{name}/metadata')
async def get_outbox_metadata(request: Request, name: str) -> Response:
    """The metadata of an image that waits, as it will be sent."""
    stored = await outbox_images.read(_node(request).outbox, name, lambda entry: entry.metadata.read_bytes())
    return Response(stored, media_type='application/json')


# ---------------------------------------------------------------- mode


@router.get('/outbox_mode', response_class=PlainTextResponse)
async def get_outbox_mode(request: Request) -> str:
    """`continuous_upload` or `stopped`."""
    return str(_node(request).outbox.get_mode().value)


@router.put('/outbox_mode')
async def put_outbox_mode(request: Request) -> str:
    """Start or stop sending to the Loop.

    curl -X PUT -d stopped localhost:8004/outbox_mode
    """
    await set_outbox_mode(_node(request), (await request.body()).decode())
    return 'OK'


async def set_outbox_mode(node: 'WholebodyNode', mode: str) -> None:
    """Start or stop sending to the Loop.

    :raises InvalidRequest: no such mode.
    :raises NoLearningLoop: there is nobody to send to.
    """
    mode = mode.strip()
    if mode not in {known.value for known in OutboxMode}:
        raise InvalidRequest(f"the outbox mode {mode[:40]!r} is none of 'continuous_upload', 'stopped'")
    await node.outbox.set_mode(mode)
