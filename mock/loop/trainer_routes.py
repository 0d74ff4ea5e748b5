"""Endpoints of the Learning Loop for trainers, annotators, converters and the tests of learning_loop_node."""

import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, Query, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from . import archives, seed
from .errors import Conflict, LoopError
from .project import ImageRecord, Model, Project
from .routes import MODEL_ID, PROJECT
from .state import CurrentLoop, CurrentProject, Login, example

router = APIRouter(prefix='/api', tags=['Learning Loop: trainers, annotators, converters'], dependencies=[Login])

MAX_DETECTIONS = 100
"""Number of images whose detections a request may carry."""
ModelParts = Annotated[list[UploadFile], File(description='model.json and the files of the model, or one zip of them')]


@router.get(PROJECT + '/data', responses=example({'image_ids': [MODEL_ID], 'categories': []}))
def data(project: CurrentProject, state: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """Return the ids of all images, or of those in a state such as `complete`, and the categories."""
    ids = [record.id for record in project.images() if state is None or record.state == state]
    return {'image_ids': ids, 'categories': project.state.categories}


@router.get(PROJECT + '/images')
def images_data(
    project: CurrentProject, ids: Annotated[str, Query(description='Separated by commas')] = ''
) -> dict[str, Any]:
    """Return annotations, tags, set and state of the images with these ids. Unknown ids are ignored."""
    known = {record.id: record for record in project.images()}
    return {'images': [_image_data(project, known[id_]) for id_ in ids.split(',') if id_ in known]}


def _image_data(project: Project, record: ImageRecord) -> dict[str, Any]:
    usage = 'test' if record.number % 5 == 0 else 'train'
    size = {'width': record.width, 'height': record.height}
    return project.metadata(record.id) | size | {'id': record.id, 'set': usage, 'state': record.state}


@router.get(
    PROJECT + '/images/{image_id}/main',
    response_class=FileResponse,
    responses={200: {'content': {'image/jpeg': {}}, 'description': 'The image'}},
)
def main_image(project: CurrentProject, image_id: str) -> FileResponse:
    """Return an image as it was received."""
    return FileResponse(project.image(image_id)[1], media_type='image/jpeg')


@router.post(PROJECT + '/detections', responses=example({'status': 'OK'}))
def receive_detections(
    project: CurrentProject,
    detections: Annotated[
        list[dict[str, Any]], Body(max_length=MAX_DETECTIONS, examples=[[{'image_id': MODEL_ID, 'box_detections': []}]])
    ],
) -> dict[str, str]:
    """Store a trainer's detections for up to 100 images."""
    project.add_detections(detections)
    return {'status': 'OK'}


@router.get(
    PROJECT + '/trainings', responses=example({'charts': [{'data': [{'model_id': MODEL_ID, 'version': '1.0'}]}]})
)
def trainings(project: CurrentProject) -> dict[str, Any]:
    """Return the models, newest first, as data points of a chart, and the trainings that trainers reported."""
    points = [{'model_id': model.id, 'version': model.version} for model in reversed(project.state.models)]
    return {'charts': [{'data': points}], 'trainings': project.state.trainings}


@router.put(
    PROJECT + '/trainings/{number}/models/latest/{model_format}/file',
    response_model=None,
    responses=example({'id': MODEL_ID})
    | {409: {'content': {'application/json': {'example': {'detail': {'id': MODEL_ID}}}}, 'description': 'Known'}},
)
def upload_training_model(
    project: CurrentProject, number: str, model_format: str, files: ModelParts
) -> dict[str, str] | JSONResponse:
    """Store the latest model of a training in a format. Its other formats become part of the same model.

    If the content is the same as before, the answer is 409 with the id of the stored model.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive, content = _pack(Path(folder), files)
        of_training = [model for model in project.state.models if model.training == number]
        for model in of_training:
            stored = model.formats.get(model_format)
            if stored and stored.content == content:
                raise Conflict({'id': model.id})
        if of_training and model_format not in of_training[-1].formats:
            model = project.add_format(of_training[-1], archive, model_format=model_format, content=content)
        else:
            model = project.add_model(archive, model_format=model_format, training=number, content=content)
    return {'id': model.id}


@router.post(PROJECT + '/models/{model_id}/{model_format}', responses=example({'id': MODEL_ID, 'version': '1.0'}))
def upload_converted_model(
    project: CurrentProject, model_id: str, model_format: str, files: ModelParts
) -> dict[str, str]:
    """Store a model in a further format, or replace it in that format, as converters do."""
    model = project.model(model_id)
    with tempfile.TemporaryDirectory() as folder:
        archive, content = _pack(Path(folder), files)
        project.add_format(model, archive, model_format=model_format, content=content)
    return _named(model)


@router.post(PROJECT + '/{model_format}', responses=example({'id': MODEL_ID, 'version': '1.0'}))
def upload_model(project: CurrentProject, model_format: str, files: ModelParts) -> dict[str, str]:
    """Store a zip as a new model in a format, with the next minor version."""
    with tempfile.TemporaryDirectory() as folder:
        archive, content = _pack(Path(folder), files)
        return _named(project.add_model(archive, model_format=model_format, content=content))


def _named(model: Model) -> dict[str, str]:
    return {'id': model.id, 'version': model.version}


def _pack(folder: Path, files: list[UploadFile]) -> tuple[Path, str]:
    """Pack the uploaded parts into one zip, and return it with a hash of their contents."""
    parts = [(PurePosixPath(part.filename or 'file').name, part.file) for part in files]
    packed = folder / 'packed.zip'
    content = archives.pack_parts(packed, parts)
    if len(parts) == 1 and parts[0][0].endswith('.zip'):
        packed = folder / 'uploaded.zip'
        parts[0][1].seek(0)
        with packed.open('wb') as sink:
            while chunk := parts[0][1].read(1024**2):
                sink.write(chunk)
    elif archives.MODEL_JSON not in (name for name, _ in parts):
        raise LoopError('the upload has no model.json')
    return packed, content


class Generator(BaseModel):
    """Content of a generated project. Further fields of the Loop's generator are ignored."""

    model_config = ConfigDict(
        extra='ignore', json_schema_extra={'example': {'project_name': 'demo', 'complete': 3, 'trainings': 1}}
    )
    project_name: str
    inbox: int = Field(0, ge=0, le=1000)
    annotate: int = Field(0, ge=0, le=1000)
    review: int = Field(0, ge=0, le=1000)
    complete: int = Field(0, ge=0, le=1000)
    tags: int = Field(0, ge=0, le=100)
    trainings: int = Field(0, ge=0, le=100)
    box_categories: int = Field(0, ge=0, le=100)
    point_categories: int = Field(0, ge=0, le=100)
    segmentation_categories: int = Field(0, ge=0, le=100)
    classification_categories: int = Field(0, ge=0, le=100)

    @property
    def images(self) -> dict[str, int]:
        """Number of images by state."""
        return {state: getattr(self, state) for state in ('inbox', 'annotate', 'review', 'complete')}

    @property
    def categories(self) -> dict[str, int]:
        """Number of categories by type."""
        types = ('box', 'point', 'segmentation', 'classification')
        return {type_: getattr(self, f'{type_}_categories') for type_ in types}


@router.post('/{organization}/projects/generator', responses=example({'project_id': 'demo'}))
def generate_project(loop: CurrentLoop, organization: str, wanted: Generator) -> dict[str, str]:
    """Create a project with test cards as images and small models in the format `mocked`."""
    seed.generate(
        loop.store,
        organization,
        wanted.project_name,
        images=wanted.images,
        categories=wanted.categories,
        trainings=wanted.trainings,
        tags=wanted.tags,
    )
    return {'project_id': wanted.project_name}


@router.delete(PROJECT, responses=example({'status': 'OK'}))
def delete_project(
    loop: CurrentLoop, organization: str, project: str, keep_images: Annotated[bool, Query()] = False
) -> dict[str, str]:
    """Delete a project and everything in it. `keep_images` is accepted and has no effect."""
    loop.store.delete(organization, project)
    return {'status': 'OK'}
