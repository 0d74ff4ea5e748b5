"""Endpoints of the Learning Loop that every node calls: login, status, deployment target, models, images.

Paths, status codes and required logins are those that learning_loop_node 0.27 relies on: posting images and fetching
model files require no login.
"""

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict

from detector.models.package import file_sha256

from .errors import LoopError, Unknown
from .faults import FILE_KINDS, Fault, Faults, broken_copy
from .images import names_of, read_batch
from .project import Model
from .state import COOKIE, CurrentLoop, CurrentProject, Login, example

router = APIRouter(prefix='/api', tags=['Learning Loop: all nodes'])
PROJECT = '/{organization}/projects/{project}'
MODEL_ID = '3c20d807-f71c-40dc-a996-8a8968aa5431'


class DetectorReport(BaseModel):
    """Status report of a detector."""

    model_config = ConfigDict(
        extra='allow',
        json_schema_extra={
            'example': {
                'uuid': '85ef1a58-308d-4c80-8931-43d1f752f4f2',
                'name': 'wholebody',
                'state': 'online',
                'uptime': 300,
                'model_format': 'rtmlib_wholebody',
                'current_model': '1.0',
                'target_model': '1.0',
                'errors': {},
                'operation_mode': 'idle',
                'node_version': None,
            }
        },
    )
    uuid: str
    name: str
    state: str
    operation_mode: str
    uptime: float
    model_format: str
    errors: dict[str, Any]
    current_model: str | None
    target_model: str | None
    node_version: str | None = None


@router.post('/login', responses=example({'status': 'OK'}, 'Logged in; the cookie is set'))
def login(
    loop: CurrentLoop, response: Response, username: Annotated[str, Form()] = '', password: Annotated[str, Form()] = ''
) -> dict[str, str]:
    """Log in with a form. Empty credentials are accepted unless the mock was started with a user name."""
    token = loop.sessions.login(username, password)
    if token is None:
        raise HTTPException(401, 'wrong user name or password')
    response.set_cookie(COOKIE, token, httponly=True, samesite='lax', path='/')
    return {'status': 'OK'}


@router.post('/logout')
def logout(loop: CurrentLoop, request: Request, response: Response) -> dict[str, str]:
    """Log out."""
    if token := request.cookies.get(COOKIE):
        loop.sessions.logout(token)
    response.delete_cookie(COOKIE, path='/')
    return {'status': 'OK'}


@router.get('/status')
def status() -> dict[str, str]:
    """Answer that the Loop is up. No login is required."""
    return {'status': 'OK'}


@router.post(PROJECT + '/detectors', dependencies=[Login])
def report_detector(project: CurrentProject, report: DetectorReport) -> dict[str, str]:
    """Store the status report of a detector."""
    project.add_report(report.uuid, report.model_dump())
    return {'status': 'OK'}


@router.get(
    PROJECT + '/deployment/target', dependencies=[Login], responses=example({'model_uuid': MODEL_ID, 'version': '1.0'})
)
def deployment_target(project: CurrentProject) -> Response:
    """Return the model that detectors are to run."""
    state = project.state
    if state.raw_target is not None:
        return Response(state.raw_target, media_type='application/json')
    if state.target is None:
        raise Unknown('the project has no deployment target')
    model = project.model(state.target)
    target = DeploymentTarget(model_uuid=model.id, version=model.version)
    return Response(target.model_dump_json(), media_type='application/json')


class DeploymentTarget(BaseModel):
    model_uuid: str
    version: str


@router.get(
    PROJECT + '/models',
    dependencies=[Login],
    responses=example({
        'models': [
            {
                'id': MODEL_ID,
                'version': '1.0',
                'formats': ['rtmlib_wholebody'],
                'created': '2026-11-20T15:33:20.109513+00:00',
                'comment': 'uploaded at 2026-11-20T15:33:20.109513+00:00',
                'training': None,
                'host': 'http://127.0.0.1:5005',
            }
        ]
    }),
)  # fmt: skip
def models(
    project: CurrentProject, request: Request, model_format: Annotated[str | None, Query(alias='format')] = None
) -> dict[str, Any]:
    """Return the models, oldest first; with `format` only those that are available in it."""
    listed = [model for model in project.state.models if model_format is None or model_format in model.formats]
    return {'models': [as_listed(model, request) for model in listed]}


def as_listed(model: Model, request: Request) -> dict[str, Any]:
    """Return a model as lists show it."""
    host = str(request.base_url).rstrip('/')
    return model.model_dump() | {'formats': list(model.formats), 'host': host}


@router.get(
    PROJECT + '/models/{model_id}/{model_format}/file',
    response_class=FileResponse,
    responses={200: {'content': {'application/zip': {}}, 'description': 'A zip; Range and If-Range are supported'}},
)
def model_file(loop: CurrentLoop, project: CurrentProject, model_id: str, model_format: str) -> Response:
    """Return the files of a model as a zip. No login is required. The ETag is the SHA-256 of the served bytes."""
    path, file = project.model_path(model_id, model_format)
    name = f'{project.state.project}_{model_id}.zip'
    headers = {'ETag': f'"{file.sha256}"', 'Content-Disposition': f'attachment; filename="{name}"'}
    for fault in _file_faults(loop.faults):
        match fault.kind:
            case 'truncate' | 'corrupt':
                path = broken_copy(path, fault, loop.broken_files)
                headers['ETag'] = f'"{file_sha256(path)}"'
            case 'no_disposition':
                del headers['Content-Disposition']
            case _:
                headers['Content-Disposition'] = f'attachment; filename="{fault.filename}"'
    return FileResponse(path, headers=headers, media_type='application/zip')


def _file_faults(faults: Faults) -> list[Fault]:
    taken = (faults.take('model_file', kind) for kind in FILE_KINDS)
    return [fault for fault in taken if fault]


@router.post(
    PROJECT + '/images',
    responses=example({'image_ids': ['0d6f6a4e-9d3c-4a5e-8f43-0f4a1f0f2c11']})
    | {422: {'content': {'application/json': {'example': {'detail': 'image_2026-11-20: the image is broken'}}}}},
)
def receive_images(
    loop: CurrentLoop,
    project: CurrentProject,
    files: Annotated[list[UploadFile], File(description='For each image a JPEG and a JSON of the same name')],
) -> dict[str, list[str]]:
    """Store a batch of images with their metadata. No login is required.

    One broken part makes the answer 422, and no image of the batch is stored.
    """
    filenames = [part.filename or '' for part in files]
    if rejected := loop.faults.rejected_image(names_of(filenames)):
        raise LoopError(f'{rejected}: the image is broken, as ordered by a fault')
    batch = read_batch([(name, part.file.read()) for name, part in zip(filenames, files, strict=True)])
    records = [project.add_image(image.jpeg, image.metadata, name=image.name, size=image.size) for image in batch]
    return {'image_ids': [record.id for record in records]}
