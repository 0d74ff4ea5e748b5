"""The REST routes for images, models and the node itself."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Header, Request, UploadFile
from fastapi.responses import JSONResponse
from learning_loop_node.data_classes import AboutResponse, ImageMetadata, ModelVersionResponse

from detector.service import DetectRequest, Service, encoded

from .header_text import HeaderText, check_single, listed
from .openapi import IMAGE_ERRORS, errors

ImageFile = Annotated[UploadFile, File(description='JPEG, PNG or WebP')]


async def _detect_request(
    request: Request,
    camera_id: Annotated[
        HeaderText | None,
        Header(convert_underscores=False, description='Name of the camera; relevance is kept per camera'),
    ] = None,
    tags: Annotated[
        str | None, Header(description='Tags of the image, separated by commas; a repeated header continues the list')
    ] = None,
    source: Annotated[HeaderText | None, Header(description='Where the image comes from')] = None,
    autoupload: Annotated[
        Literal['filtered', 'all', 'disabled'],
        Header(description='Send the image to the Learning Loop if it is relevant, always, or never'),
    ] = 'filtered',
    creation_date: Annotated[
        HeaderText | None, Header(convert_underscores=False, description='When the image was taken, ISO 8601')
    ] = None,
    hyphen_camera_id: Annotated[HeaderText | None, Header(alias='camera-id', include_in_schema=False)] = None,
    hyphen_creation_date: Annotated[HeaderText | None, Header(alias='creation-date', include_in_schema=False)] = None,
) -> DetectRequest:
    for names in (('camera_id', 'camera-id'), ('source',), ('autoupload',), ('creation_date', 'creation-date')):
        check_single(request, *names)
    return DetectRequest.parse(
        {
            'tags': listed(request, 'tags') if tags else [],
            'camera_id': camera_id or hyphen_camera_id,
            'source': source,
            'autoupload': autoupload,
            'creation_date': creation_date or hyphen_creation_date,
        }
    )


def create_router(service: Service) -> APIRouter:
    """Return the routes that use these use cases."""
    router = APIRouter()

    @router.post('/detect', response_model=ImageMetadata, tags=['detect'], responses=errors(*IMAGE_ERRORS))
    async def detect(file: ImageFile, request: Annotated[DetectRequest, Depends(_detect_request)]) -> JSONResponse:
        """Find the persons in an image: boxes, and 133 points per person in the order of the boxes.

            curl -F file=@photo.jpg localhost:8004/detect -H 'camera_id: front' -H 'tags: a,b' -H 'autoupload: disabled'

        The headers `camera_id` and `creation_date` may be spelled with a hyphen too. Text in headers is UTF-8.
        """
        found = await service.detection.detect(await file.read(), request)
        return await encoded(lambda: JSONResponse(asdict(found)))

    @router.post('/poses', tags=['detect'], responses=errors(*IMAGE_ERRORS))
    async def poses(file: ImageFile) -> JSONResponse:
        """Find the persons in an image: one object per person, with its 133 named keypoints.

            curl -F file=@photo.jpg localhost:8004/poses

        Nothing is uploaded to the Learning Loop.
        """
        return await encoded(JSONResponse, await service.detection.poses(await file.read()))

    @router.get('/about', response_model=AboutResponse, tags=['about'])
    async def about() -> JSONResponse:
        """Describe the node: its modes and counters, the active model, and how to install another."""
        return JSONResponse(service.about.about())

    @router.get('/model_version', response_model=ModelVersionResponse, tags=['model_version'])
    async def get_model_version() -> JSONResponse:
        """Name the model versions in service, wanted and installed."""
        return JSONResponse(asdict(await asyncio.to_thread(service.models.versions)))

    @router.put('/model_version', tags=['model_version'], responses=errors(409, 422, 502))
    async def put_model_version(request: Request) -> str:
        """Follow the Loop, pause, or serve one version or one of the embedded models `starter` and `test-card`.

        curl -X PUT -d follow_loop localhost:8004/model_version
        curl -X PUT -d 1.2 localhost:8004/model_version
        curl -X PUT -d starter localhost:8004/model_version
        """
        await service.models.set_mode((await request.body()).decode())
        return 'OK'

    @router.head('/ready', include_in_schema=False)
    @router.get('/ready', tags=['operation'])
    async def ready() -> dict[str, str]:
        """Answer 200 if a model is loaded, otherwise 503.

        While an embedded model serves, `notice` says why.
        """
        answer = {'status': 'READY', 'model_version': service.models.active().package.model_version}
        notice = service.models.notice()
        return answer if notice is None else answer | {'notice': notice}

    return router
