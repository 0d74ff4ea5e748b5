"""The REST routes that this node adds to upstream's, or has in their place."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from fastapi import APIRouter, File, Header, Request, UploadFile
from fastapi.responses import JSONResponse
from learning_loop_node.data_classes import AboutResponse, ImageMetadata, ModelVersionResponse

from detector.errors import ModelUnavailable
from detector.models.embedded import EMBEDDED_NAME, EMBEDDED_NOTICE
from detector.observability.request_context import encoding
from detector.pose.pose import poses_to_json

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

router = APIRouter()

ImageFile = Annotated[UploadFile, File(description='JPEG, PNG or WebP')]
OptionalHeader = Annotated[str | None, Header(convert_underscores=False)]
HyphenHeader = Annotated[str | None, Header(include_in_schema=False)]


def _node(request: Request) -> 'WholebodyNode':
    return cast('WholebodyNode', request.app)


@router.post('/detect', response_model=ImageMetadata, tags=['detect'])
async def detect(
    request: Request,
    file: ImageFile,
    camera_id: OptionalHeader = None,
    tags: Annotated[str | None, Header(description='Separated by commas')] = None,
    source: Annotated[str | None, Header()] = None,
    autoupload: Annotated[Literal['filtered', 'all', 'disabled'], Header()] = 'filtered',
    creation_date: OptionalHeader = None,
    hyphen_camera_id: Annotated[HyphenHeader, Header(alias='camera-id')] = None,
    hyphen_creation_date: Annotated[HyphenHeader, Header(alias='creation-date')] = None,
) -> JSONResponse:
    """Find the persons in an image: boxes, and 133 points per person in the order of the boxes.

        curl -F file=@photo.jpg localhost:8004/detect -H 'camera_id: front' -H 'tags: a,b' -H 'autoupload: disabled'

    The headers `camera_id` and `creation_date` may be spelled with a hyphen too.
    """
    metadata = await _node(request).get_detections(
        await file.read(),
        [tag.strip() for tag in tags.split(',') if tag.strip()] if tags else [],
        camera_id=camera_id or hyphen_camera_id,
        source=source,
        autoupload=autoupload,
        creation_date=creation_date or hyphen_creation_date,
    )
    with encoding():
        return await asyncio.to_thread(lambda: JSONResponse(asdict(metadata)))


@router.post('/poses', tags=['detect'])
async def poses(request: Request, file: ImageFile) -> JSONResponse:
    """Find the persons in an image: one object per person, with its 133 named keypoints.

        curl -F file=@photo.jpg localhost:8004/poses

    Nothing is uploaded to the Learning Loop.
    """
    found = await grouped_poses(_node(request), await file.read())
    with encoding():
        return await asyncio.to_thread(JSONResponse, found)


async def grouped_poses(node: 'WholebodyNode', image: Any) -> dict[str, Any]:
    """The grouped form of one image's poses.

    :param image: encoded bytes, or an RGB uint8 array H×W×3.
    :raises WholebodyError: see `Inference.estimate`.
    """
    estimate = await node.inference.estimate(image)
    height, width = estimate.image.shape[:2]
    with encoding():
        answer = await asyncio.to_thread(
            poses_to_json,
            estimate.poses,
            width=width,
            height=height,
            model_version=estimate.package.model_version,
        )
    return answer | {'timing': estimate.timing}


@router.get('/about', response_model=AboutResponse, tags=['about'])
async def about(request: Request) -> JSONResponse:
    """What this node is doing, which model serves, and how to get a real one."""
    return JSONResponse(about_node(_node(request)))


def about_node(node: 'WholebodyNode') -> dict[str, Any]:
    """Upstream's answer, plus what serves, what is refused, what waits for the Loop, and how to get a real model."""
    answer: dict[str, Any] = asdict(node.get_about_response())
    answer |= {'update': node.updates.about(), 'outbox': node.outbox.about()}
    answer |= {'label_studio': node.label_studio.about(), 'requests': node.inference.admission.about()}
    answer |= {'process': node.life.about()}
    try:
        logic, _ = node.serving.active()
    except ModelUnavailable as error:
        return answer | {'wholebody': {'model_version': None, 'notice': str(error)}}
    package = logic.package
    embedded = package.name == EMBEDDED_NAME
    serving = {
        'model_version': package.model_version,
        'runtime': logic.engine.runtime,
        'since': node.life.model_since,
        'embedded': embedded,
        'origin': package.wholebody.origin,
        'licence': package.wholebody.licence,
        'notice': EMBEDDED_NOTICE if embedded else None,
    }
    return answer | {'wholebody': serving}


@router.get('/model_version', response_model=ModelVersionResponse, tags=['model_version'])
async def get_model_version(request: Request) -> JSONResponse:
    """The versions that serve, are wanted, and are installed."""
    return JSONResponse(asdict(_node(request).get_model_version_response()))


@router.put('/model_version', tags=['model_version'])
async def put_model_version(request: Request) -> str:
    """Follow the Loop, pause, or serve one version.

    curl -X PUT -d follow_loop localhost:8004/model_version
    curl -X PUT -d 1.2 localhost:8004/model_version
    """
    await _node(request).set_model_version_mode((await request.body()).decode())
    return 'OK'


@router.head('/ready', include_in_schema=False)
@router.get('/ready', tags=['operation'])
async def ready(request: Request) -> dict[str, str]:
    """Whether a model serves; 503 if none does."""
    node = _node(request)
    logic, _ = node.serving.active()
    return {'status': 'READY', 'model_version': logic.package.model_version}
