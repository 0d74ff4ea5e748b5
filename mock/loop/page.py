"""The page of the mock at `/ui`: received images, models and the deployment target."""

import asyncio
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse
from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from detector.page.elements import ICON, Notice, Pager, Picture, PictureGrid, Text, bar, complain, panel, use_style
from detector.page.pictures import poses_of_picture, thumbnail
from detector.pose import images
from detector.wording import counted

from .errors import LoopError
from .project import ImageRecord, Model, Project
from .state import CurrentProject, Loop

PAGE_PICTURES: Final = 12
_THRESHOLD: Final = 0.3
_REFRESH_SECONDS: Final = 1.0

router = APIRouter(prefix='/{organization}/{project}/images/{image_id}')


@router.get('/thumbnail')
def picture_thumbnail(project: CurrentProject, image_id: str) -> Response:
    _, path = project.image(image_id)
    picture = images.decode_image(path.read_bytes())
    small = thumbnail(picture, project.metadata(image_id), confidence_threshold=_THRESHOLD)
    return Response(small, media_type='image/jpeg')


@router.get('/image')
def picture_image(project: CurrentProject, image_id: str) -> FileResponse:
    return FileResponse(project.image(image_id)[1], media_type='image/jpeg')


@router.get('/poses')
def picture_poses(project: CurrentProject, image_id: str) -> Response:
    answer = poses_of_picture(project.image(image_id)[1].read_bytes(), project.metadata(image_id))
    return Response(answer, media_type='application/json')


def build(app: FastAPI, loop: Loop) -> None:
    """Register the page, and add its routes to an app.

    :param app: the app of the page, mounted at `/ui`.
    """
    app.state.loop = loop
    app.include_router(router)
    use_style()

    @ui.page('/', title='Mock Learning Loop', favicon=ICON)
    def loop_page(request: Request) -> None:
        LoopPage(loop, request.query_params.get('project'))


class LoopPage:
    """The page in one browser.

    :param name: project to show first, as `organization/project`.
    """

    def __init__(self, loop: Loop, name: str | None) -> None:
        self._loop = loop
        self._models: list[Any] | None = None
        self._reports: dict[str, Any] | None = None
        names = self._names()
        with bar('Mock Learning Loop'):
            self._project = ui.select(names, value=name if name in names else next(iter(names), None))
            self._project.props('dense outlined options-dense behavior=menu aria-label=Project data-control=project')
            ui.link('API', '../docs').classes('faint')
        with ui.element('main').classes('cards'):
            with panel('Received images') as head:
                self._empty = ui.label('No image has arrived.').classes('faint')
                self._grid = PictureGrid(threshold=_THRESHOLD)
                self._pager = Pager(PAGE_PICTURES)
            with head:
                self._count = Text('span', classes='pill')
            with ui.element('div').classes('side'):
                with panel('Models'):
                    self._target = ui.select({}, label='Deployment target', on_change=self._choose)
                    self._target.props('outlined dense options-dense behavior=menu data-control=target')
                    self._target.classes('full-width')
                    self._raw = Notice('warn')
                    self._versions = ui.element('div').classes('rows')
                with panel('Detectors'):
                    self._detectors = ui.element('div').classes('rows')
        ui.timer(_REFRESH_SECONDS, self.refresh)

    def _names(self) -> list[str]:
        states = [project.state for project in self._loop.store.projects()]
        return [f'{state.organization}/{state.project}' for state in states]

    def _current(self) -> Project | None:
        """Return the chosen project, or the first one if it has been deleted."""
        names = self._names()
        if names != self._project.options:
            value = self._project.value if self._project.value in names else next(iter(names), None)
            self._project.set_options(names, value=value)
        if self._project.value is None:
            return None
        return self._loop.store.project(*self._project.value.split('/'))

    async def refresh(self) -> None:
        project = self._current()
        if project is None:
            return
        self._show_images(project)
        self._show_models(project)
        self._show_detectors(await asyncio.to_thread(project.reports))

    def _show_images(self, project: Project) -> None:
        records = project.images()[::-1]
        self._count.set_text(str(len(records)))
        self._empty.set_visibility(not records)
        shown = records[self._pager.slice(len(records))]
        self._grid.show([_picture(project, record) for record in shown])

    # ---------------------------------------------------------------- models

    def _show_models(self, project: Project) -> None:
        state = project.state
        raw = state.raw_target
        self._raw.say(None if raw is None else f'The mock serves this JSON instead of the target: {raw[:200]}')
        options = {model.id: f'Version {model.version}' for model in reversed(state.models)}
        if options != self._target.options or state.target != self._target.value:
            self._target.set_options(options, value=state.target)
        models = [*state.models, state.target]
        if models == self._models:
            return
        self._models = models
        self._versions.clear()
        with self._versions:
            for model in reversed(state.models):
                _model_row(model, is_target=model.id == state.target)
            if not state.models:
                ui.label('No model has been uploaded.').classes('faint')

    async def _choose(self, event: ValueChangeEventArguments[str]) -> None:
        project = self._current()
        if project is None or event.value is None or event.value == project.state.target:
            return
        try:
            await asyncio.to_thread(project.set_target, model_id=event.value)
        except LoopError as error:
            complain(error)
        await self.refresh()

    # ---------------------------------------------------------------- detectors

    def _show_detectors(self, reports: dict[str, Any]) -> None:
        latest = {uuid: entries[-1] for uuid, entries in reports.items() if entries}
        if latest == self._reports:
            return
        self._reports = latest
        self._detectors.clear()
        with self._detectors:
            for report in latest.values():
                _detector_row(report)
            if not latest:
                ui.label('No detector has reported.').classes('faint')


def _picture(project: Project, record: ImageRecord) -> Picture:
    state = project.state
    shapes = f'{counted(record.boxes, "box")}, {counted(record.points, "point")}'
    return Picture(
        address='/'.join(quote(part) for part in (state.organization, state.project, 'images', record.id)),
        title=record.name,
        lines=[
            record.received[:19].replace('T', ' '),
            f'{shapes} · {record.source}' if record.source else shapes,
        ],
        tags=record.tags,
    )


def _model_row(model: Model, *, is_target: bool) -> None:
    with ui.element('div').classes('row-line'):
        with ui.element('div').classes('grow'):
            Text('div', model.version)
            sizes = ', '.join(
                f'{name}, {max(1, round(file.size / 1024)):,} KiB' for name, file in model.formats.items()
            )
            Text('div', sizes or 'no file', 'faint')
        if is_target:
            Text('span', 'target', 'pill')


def _detector_row(report: dict[str, Any]) -> None:
    with ui.element('div').classes('row-line'):
        with ui.element('div').classes('grow'):
            Text('div', str(report.get('name') or report.get('uuid')))
            models = f'model {report.get("current_model")}, target {report.get("target_model")}'
            Text('div', f'{models} · {str(report.get("received"))[:19].replace("T", " ")}', 'faint')
            for error in (report.get('errors') or {}).values():
                Text('div', str(error), 'notice error')
        Text('span', str(report.get('state')), 'pill')
