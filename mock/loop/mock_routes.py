"""Paths for people and tests that a Learning Loop does not have. They require no login."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict

from detector.errors import InvalidImage
from detector.models.package import MODEL_FORMAT, categories

from . import events, seed
from .errors import LoopError, Unknown
from .faults import Fault
from .images import draw_skeletons
from .project import Model, Project
from .routes import MODEL_ID, as_listed
from .state import CurrentLoop, CurrentProject, example

router = APIRouter(prefix='/mock')
PROJECT = '/projects/{organization}/{project}'


@router.get('/projects', tags=['mock: projects'], responses=example({'projects': ['zauberzeug/wholebody']}))
def projects(loop: CurrentLoop) -> dict[str, list[str]]:
    """Return all projects, as organization/project."""
    states = [project.state for project in loop.store.projects()]
    return {'projects': [f'{state.organization}/{state.project}' for state in states]}


@router.put(PROJECT, tags=['mock: projects'])
def create_project(loop: CurrentLoop, organization: str, project: str) -> dict[str, str]:
    """Create an empty project with the whole-body categories."""
    loop.store.create(organization, project, categories())
    return {'status': 'OK'}


@router.post('/reset', tags=['mock: projects'])
def reset(loop: CurrentLoop) -> dict[str, str]:
    """Delete all projects, images, faults, requests and logins, and seed as at the first start."""
    for project in loop.store.projects():
        loop.store.delete(project.state.organization, project.state.project)
    loop.faults.delete()
    loop.requests.entries.clear()
    loop.sessions.logout()
    shutil.rmtree(loop.broken_files, ignore_errors=True)
    seed.seed(loop.store)
    return {'status': 'OK'}


@router.get(PROJECT + '/models', tags=['mock: models'])
def models(project: CurrentProject, request: Request) -> dict[str, Any]:
    """Return the models, oldest first, with their files. The deployment target is marked."""
    state = project.state
    return {
        'models': [
            as_listed(model, request)
            | {'files': {name: file.model_dump() for name, file in model.formats.items()}}
            | {'target': model.id == state.target and state.raw_target is None}
            for model in state.models
        ]
    }


@router.post(PROJECT + '/models', tags=['mock: models'], responses=example({'id': MODEL_ID, 'version': '1.1'}))
def upload_package(
    project: CurrentProject,
    file: Annotated[UploadFile, File(description='A package: a zip of model.json, det.onnx and pose.onnx')],
    version: Annotated[str | None, Form(description='By default the next minor version')] = None,
    model_format: Annotated[str, Form()] = MODEL_FORMAT,
    rewrite: Annotated[bool, Form(description="Write the Loop's id, version and names into its model.json")] = True,
    duplicate: Annotated[bool, Form(description='Allow a version that exists already')] = False,
) -> dict[str, str]:
    """Store a package as a new model. It is not verified, so faulty packages can be served, too.

    With `rewrite=false` any bytes are stored unchanged.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / 'uploaded.zip'
        with archive.open('wb') as sink:
            shutil.copyfileobj(file.file, sink, 1024**2)
        model = project.add_model(
            archive, model_format=model_format, version=version, rewrite=rewrite, duplicate=duplicate
        )
    return {'id': model.id, 'version': model.version}


@router.delete(PROJECT + '/models/{model_id}', tags=['mock: models'])
def delete_model(project: CurrentProject, model_id: str) -> dict[str, str]:
    """Delete a model. If it is the deployment target, no target remains."""
    project.delete_model(model_id)
    return {'status': 'OK'}


class Target(BaseModel):
    """The model to deploy: by version (the newest of several models) or by id."""

    model_config = ConfigDict(extra='forbid', json_schema_extra={'example': {'version': '1.1'}})
    version: str | None = None
    model_uuid: str | None = None


@router.get(PROJECT + '/target', tags=['mock: models'], responses=example({'model_uuid': MODEL_ID, 'version': '1.0'}))
def target(project: CurrentProject) -> dict[str, Any]:
    """Return the deployment target, or in `raw` the body that is served instead."""
    if project.state.raw_target is not None:
        return {'raw': project.state.raw_target}
    if project.state.target is None:
        raise Unknown('the project has no deployment target')
    return _as_target(project.model(project.state.target))


@router.put(PROJECT + '/target', tags=['mock: models'], responses=example({'model_uuid': MODEL_ID, 'version': '1.1'}))
def set_target(project: CurrentProject, wanted: Target) -> dict[str, Any]:
    """Set the deployment target."""
    if (wanted.version is None) == (wanted.model_uuid is None):
        raise LoopError('give version or model_uuid')
    return _as_target(project.set_target(version=wanted.version, model_id=wanted.model_uuid))


@router.put(PROJECT + '/target/raw', tags=['mock: models'])
async def set_raw_target(
    project: CurrentProject,
    request: Request,
    _body: Annotated[Any, Body(examples=[{'model_uuid': MODEL_ID}, {'model_uuid': MODEL_ID, 'version': 1.1}])] = None,
) -> dict[str, str]:
    """Serve exactly this JSON as the deployment target, until a target is set again."""
    with project.change() as state:
        state.raw_target = (await request.body()).decode()
    return {'status': 'OK'}


def _as_target(model: Model) -> dict[str, Any]:
    return {'model_uuid': model.id, 'version': model.version}


@router.get(PROJECT + '/images', tags=['mock: what was received'])
def images(
    project: CurrentProject,
    tag: Annotated[str | None, Query(description='Only images with this tag')] = None,
    limit: Annotated[int, Query(ge=0, description='Return only the newest images')] = 1000,
    metadata: Annotated[bool, Query(description="With each image's ImageMetadata")] = True,
) -> dict[str, Any]:
    """Return the received images in the order of arrival. `total` is the number of images with the tag."""
    records = [record for record in project.images() if tag is None or tag in record.tags]
    newest = records[-limit:] if limit else []
    return {'total': len(records), 'images': [_image(project, record.id, metadata) for record in newest]}


@router.get(PROJECT + '/images/{image_id}', tags=['mock: what was received'])
def image(project: CurrentProject, image_id: str) -> dict[str, Any]:
    """Return the record and metadata of an image."""
    return _image(project, image_id, True)


def _image(project: Project, image_id: str, metadata: bool) -> dict[str, Any]:
    record, _ = project.image(image_id)
    return record.model_dump() | ({'metadata': project.metadata(image_id)} if metadata else {})


@router.get(PROJECT + '/images/{image_id}/jpeg', tags=['mock: what was received'], response_class=FileResponse)
def jpeg(project: CurrentProject, image_id: str) -> FileResponse:
    """Return an image as it was received."""
    return FileResponse(project.image(image_id)[1], media_type='image/jpeg')


@router.get(PROJECT + '/images/{image_id}/skeletons', tags=['mock: what was received'], response_class=Response)
def skeletons(project: CurrentProject, image_id: str) -> Response:
    """Return an image with the skeletons of its detections drawn over it."""
    _, path = project.image(image_id)
    try:
        return Response(draw_skeletons(path.read_bytes(), project.metadata(image_id)), media_type='image/jpeg')
    except InvalidImage as error:
        raise LoopError(str(error)) from error


@router.delete(PROJECT + '/images', tags=['mock: what was received'])
def delete_images(project: CurrentProject) -> dict[str, int]:
    """Delete all images."""
    return {'deleted': project.delete_images()}


@router.get(PROJECT + '/detectors', tags=['mock: what was received'])
def detectors(project: CurrentProject) -> dict[str, Any]:
    """Return the latest status report of each detector by its uuid."""
    return {'detectors': {uuid: reports[-1] for uuid, reports in project.reports().items()}}


@router.get(PROJECT + '/detectors/{uuid}', tags=['mock: what was received'])
def detector(project: CurrentProject, uuid: str) -> dict[str, Any]:
    """Return the latest 100 status reports of a detector, oldest first."""
    reports = project.reports().get(uuid)
    if reports is None:
        raise Unknown(f'no detector {uuid} has reported')
    return {'reports': reports}


@router.get(PROJECT + '/detections', tags=['mock: what was received'])
def detections(project: CurrentProject) -> dict[str, Any]:
    """Return the detections and annotations that trainers and annotators sent."""
    return {'detections': project.detections()}


@router.get('/requests', tags=['mock: what was received'])
def requests(
    loop: CurrentLoop,
    endpoint: Annotated[str | None, Query(description='Only this endpoint, named as in faults')] = None,
    after: Annotated[int, Query(description='Only requests with a higher number')] = 0,
) -> dict[str, Any]:
    """Return the latest 2000 requests to /api, oldest first. `status` is null until a request is answered."""
    entries = [entry for entry in list(loop.requests.entries) if entry['number'] > after]
    return {'requests': [entry for entry in entries if endpoint is None or entry['endpoint'] == endpoint]}


@router.get('/faults', tags=['mock: faults'])
def faults(loop: CurrentLoop) -> dict[str, Any]:
    """Return all faults, including those that have ended. `fired` is the number of affected requests."""
    return {'faults': loop.faults.listed()}


@router.post('/faults', tags=['mock: faults'], description=Fault.__doc__)
def order_fault(
    loop: CurrentLoop,
    fault: Annotated[
        Fault,
        Body(
            openapi_examples={
                'twice 500': {'value': {'endpoint': 'target', 'kind': 'status', 'status': 500, 'count': 2}},
                'slow download': {'value': {'endpoint': 'model_file', 'kind': 'throttle', 'bytes_per_second': 50000}},
                'download cut': {'value': {'endpoint': 'model_file', 'kind': 'drop', 'at': 0.5, 'count': 1}},
                'one bad image': {'value': {'endpoint': 'images', 'kind': 'reject_image'}},
            }
        ),
    ],
) -> dict[str, Any]:
    """Order a fault."""
    ordered = loop.faults.add(fault)
    return ordered.model_dump() | {'active': ordered.active}


@router.delete('/faults', tags=['mock: faults'])
def delete_faults(loop: CurrentLoop) -> dict[str, int]:
    """Delete all faults."""
    return {'deleted': loop.faults.delete()}


@router.delete('/faults/{fault_id}', tags=['mock: faults'])
def delete_fault(loop: CurrentLoop, fault_id: int) -> dict[str, int]:
    """Delete a fault."""
    if not loop.faults.delete(fault_id):
        raise Unknown(f'no fault {fault_id}')
    return {'deleted': 1}


@router.delete('/sessions', tags=['mock: faults'])
def expire_sessions(loop: CurrentLoop) -> dict[str, str]:
    """Invalidate all logins: from now on every cookie is answered with 401."""
    loop.sessions.logout()
    return {'status': 'OK'}


NodeEvent = Literal['begin_training', 'stop_training', 'abort_training', 'handle_user_input', 'user_logout', 'restart']


class Emission(BaseModel):
    """An event for connected nodes, with its positional arguments."""

    model_config = ConfigDict(
        json_schema_extra={
            'example': {'arguments': ['zauberzeug', 'wholebody', {'training_number': 1}], 'node_type': 'trainer'}
        }
    )
    arguments: list[Any] = []
    node_type: str | None = None


@router.get('/nodes', tags=['mock: trainers and annotators'])
def nodes(loop: CurrentLoop) -> dict[str, Any]:
    """Return the trainers and annotators that are connected by Socket.IO, with their latest status."""
    return {'nodes': [{'sid': sid} | node for sid, node in list(loop.nodes.items())]}


@router.post('/nodes/{event}', tags=['mock: trainers and annotators'])
async def emit(loop: CurrentLoop, event: NodeEvent, emission: Emission) -> dict[str, Any]:
    """Send an event to the connected nodes and return their answers."""
    return {'answers': await events.emit(loop, event, emission.arguments, emission.node_type)}
