"""The use cases, without any transport."""

import ast
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.helpers.misc import ImageData

from benchmarks.support.cards import CARD, FIGURES, make_card
from benchmarks.support.packages import make_package
from detector import service
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.errors import InvalidRequest, NoLearningLoop
from detector.loop.following import Following
from detector.loop.model_updates import ModelUpdater
from detector.models.package import ModelPackage, unpack_package
from detector.models.store import ModelStore
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.outbox.collector import Collector, make_collector
from detector.outbox.outbox import open_outbox
from detector.pose.skeleton import category_id
from detector.service import MAX_BATCH, Detection, DetectRequest, OutboxControl, UploadRequest, Uploads
from detector.serving.inference import Inference
from detector.serving.model_serving import ModelServing
from detector.settings import Settings

BAD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    'tags': ({'tags': 'a,b'}, "'tags' must be a list of strings"),
    'a tag': ({'tags': ['a', 5]}, "'tags' must be a list of strings"),
    'half a character': ({'tags': ['\ud800']}, 'not valid Unicode'),
    'camera_id': ({'camera_id': 5}, "'camera_id' must be a string, not int"),
    'source': ({'source': ['a']}, "'source' must be a string, not list"),
    'autoupload': ({'autoupload': 'maybe'}, "autoupload is 'maybe'; send 'filtered', 'all' or 'disabled'"),
    'autoupload list': ({'autoupload': ['all']}, 'autoupload is'),
    'creation_date': ({'creation_date': 'yesterday'}, 'is not ISO 8601'),
}


@pytest.mark.parametrize('name', BAD_FIELDS)
def test_a_detect_request_names_the_wrong_field(name: str) -> None:
    """An error names the wrong field; REST headers and Socket.IO payloads are checked alike."""
    fields, message = BAD_FIELDS[name]
    with pytest.raises(InvalidRequest, match=message):
        DetectRequest.parse(fields)


def test_a_detect_request_may_leave_out_every_field() -> None:
    """The defaults are those of the Loop's own detectors; unknown fields are ignored."""
    assert DetectRequest.parse({'image': 5}) == DetectRequest(autoupload='filtered', tags=[])


def test_fields_beside_the_metadata_override_it() -> None:
    """`source` and `creation_date`, which rosys sends beside `metadata`, override its fields."""
    given = {'metadata': {'source': 'a', 'tags': ['t']}, 'source': 'b', 'creation_date': '2026-01-02T03:04:05'}
    request = UploadRequest.parse(given | {'upload_priority': True})
    assert (request.metadata.source, request.metadata.created) == ('b', '2026-01-02T03:04:05')
    assert (request.metadata.tags, request.priority, request.has_labels) == (['t'], True, True)
    for bad, message in (
        ({'upload_priority': 1}, "'upload_priority' must be true or false"),
        ({'metadata': 5}, 'object'),
    ):
        with pytest.raises(InvalidRequest, match=message):
            UploadRequest.parse(bad)


class Recording(Collector):
    """A collector that records its calls."""

    def __init__(self, *, judges: bool = True) -> None:
        self.accepted: list[ImageMetadata] = []
        self.collected: list[bool] = []
        self.uncertain: list[int] = []
        self._judges = judges

    def judges(self, camera_id: str | None) -> bool:
        return self._judges

    async def accept(self, uploads: Sequence[tuple[ImageData, ImageMetadata]], *, priority: bool) -> list[str]:
        self.accepted = [metadata for _, metadata in uploads]
        return [str(priority)] * len(uploads)

    async def collect(self, *arguments: Any, filtered: bool, **_: Any) -> None:
        self.collected.append(filtered)
        self.uncertain.append(len(arguments[1].uncertain))


async def test_the_answer_carries_what_the_request_says(engine: PoseEngine) -> None:
    """The answer has the request's tags, source and date; the image is collected unless `autoupload` is `disabled`."""
    collector = Recording()
    detection = Detection(Inference(Settings(), lambda: engine), collector)
    request = DetectRequest(tags=['a'], source='s', creation_date='2026-01-02T03:04:05', autoupload='all')
    found = await detection.detect(CARD, request)
    assert (found.tags, found.source, found.created) == (['a'], 's', '2026-01-02T03:04:05')
    assert len(found.box_detections) == len(FIGURES)
    await detection.detect(CARD, DetectRequest())
    await detection.detect(CARD, DetectRequest(autoupload='disabled'))
    assert collector.collected == [False, True]
    assert len((await detection.poses(make_card()))['poses']) == len(FIGURES)
    assert collector.collected == [False, True]


@pytest.mark.parametrize(('autoupload', 'expected'), [('filtered', 2), ('all', 0), ('disabled', 0)])
async def test_uncertain_boxes_are_estimated_for_relevance_only(
    embedded: ModelPackage, autoupload: str, expected: int
) -> None:
    """Poses below the threshold are estimated if relevance decides about the image, and are never answered."""
    engine = PoseEngine(embedded, EngineOptions(person_threshold=0.99, max_uncertain_threshold=0.98))
    collector = Recording()
    detection = Detection(Inference(Settings(), lambda: engine), collector)
    request = DetectRequest(autoupload=autoupload)
    assert (await detection.detect(CARD, request)).box_detections == []
    (item,) = (await detection.detect_batch([CARD], request)).items
    assert item.box_detections == []
    assert (await detection.poses(CARD))['poses'] == []
    assert collector.uncertain == ([] if autoupload == 'disabled' else [expected, expected])


async def test_no_uncertain_boxes_for_a_camera_that_may_send_nothing(embedded: ModelPackage) -> None:
    """A camera that has used up its images costs no extra pose."""
    engine = PoseEngine(embedded, EngineOptions(person_threshold=0.99, max_uncertain_threshold=0.98))
    collector = Recording(judges=False)
    await Detection(Inference(Settings(), lambda: engine), collector).detect(CARD, DetectRequest())
    assert collector.uncertain == [0]


async def test_poses_of_an_embedded_model_carry_its_notice(engine: PoseEngine, tmp_path: Path) -> None:
    """A client of `/poses` learns from the answer that an embedded model found the poses, and how to get another."""
    installed = PoseEngine(unpack_package(make_package(tmp_path / 'p.zip', version='2.0'), tmp_path))
    for served, expected in ((engine, 'get a better one'), (installed, None)):
        inference = Inference(Settings(), lambda served=served: served)  # type: ignore[misc]
        answer = await Detection(inference, Recording(), notice=lambda: 'get a better one').poses(CARD)
        assert answer.get('notice') == expected


async def test_a_batch_is_bounded_and_keeps_its_order(engine: PoseEngine) -> None:
    """A batch gives one item per image in order; one image too many is refused before any inference."""
    detection = Detection(Inference(Settings(), lambda: engine), Recording())
    found = await detection.detect_batch([make_card(()), CARD], DetectRequest())
    assert [len(item.box_detections) for item in found.items] == [0, len(FIGURES)]
    with pytest.raises(InvalidRequest, match=f'up to {MAX_BATCH}'):
        await detection.detect_batch([CARD] * (MAX_BATCH + 1), DetectRequest())


def make_serving(folder: Path) -> tuple[ModelServing, ModelStore]:
    store = ModelStore(folder)
    return ModelServing(Settings(data_folder=folder), metrics=Metrics(), life=Life()), store


async def test_uploads_get_the_category_ids_of_the_model_that_serves(tmp_path: Path) -> None:
    """Each image gets metadata of its own; without a model the upload is accepted as it is."""
    serving, store = make_serving(tmp_path)
    collector = Recording()
    uploads = Uploads(serving, collector)
    box = {'category_name': 'person', 'x': 1, 'y': 2, 'width': 3, 'height': 4, 'category_id': '', 'model_name': 'm'}
    fields = {'metadata': {'box_detections': [box | {'confidence': 0.5}]}}
    assert await uploads.upload([CARD], UploadRequest.parse(fields)) == ['False']
    assert collector.accepted[0].box_detections[0].category_id == ''
    await serving.switch(store.add(make_package(tmp_path / 'p.zip')).folder)
    await uploads.upload([CARD, CARD], UploadRequest.parse(fields))
    first, second = collector.accepted
    assert first.box_detections[0].category_id == category_id('person')
    assert first.tags is not second.tags


class Uncopied(ImageMetadata):
    """Metadata that must not be copied: thousands of annotations take a second, on the event loop."""

    def __deepcopy__(self, _: dict[int, Any]) -> 'Uncopied':
        raise AssertionError('the metadata was copied')


async def test_metadata_of_a_single_image_is_not_copied(tmp_path: Path) -> None:
    """An event uploads one image with metadata of up to 8 MiB; the node hands them on without a copy."""
    serving, _ = make_serving(tmp_path)
    collector = Recording()
    given = Uncopied()
    await Uploads(serving, collector).upload([CARD], UploadRequest(metadata=given))
    assert collector.accepted == [given]


async def test_models_are_listed_with_the_one_that_serves_first(tmp_path: Path) -> None:
    """The names of the models begin with the active one, for Label Studio's list of versions."""
    serving, store = make_serving(tmp_path)
    models = service.Models(serving, store, None, None)  # type: ignore[arg-type]  # this use case needs no target
    for number in ('1.0', '2.0', '3.0'):
        store.add(make_package(tmp_path / f'{number}.zip', version=number, name='m'))
    assert models.names() == ['m 1.0', 'm 2.0', 'm 3.0']
    await serving.switch(store.folder('2.0'))
    assert models.names() == ['m 2.0', 'm 1.0', 'm 3.0']
    assert models.active().package.version == models.active().information.version == '2.0'


@pytest.mark.parametrize(
    ('mode', 'expected'),
    [
        ('pause', ['set aside']),
        ('starter', ['set aside']),
        ('follow_loop', ['resume']),
        ('never', []),
    ],
)
async def test_a_chosen_mode_takes_precedence_over_the_awaited_model(
    tmp_path: Path, mode: str, expected: list[str]
) -> None:
    """A model, a version or a pause ends the wait for the model of MODE; following the Loop begins it again."""
    told: list[str] = []

    class First:
        async def set_aside(self) -> None:
            told.append('set aside')

        async def resume(self) -> None:
            told.append('resume')

    serving, store = make_serving(tmp_path)
    settings = Settings(data_folder=tmp_path)
    updates = ModelUpdater(
        store,
        files_url=None,
        connect=lambda: pytest.fail('nothing is fetched'),
        switch=serving.switch,
        try_out=lambda _: None,
        keep=1,
    )
    following = Following(settings, None, store, updates, serving, send_status=None)  # type: ignore[arg-type]
    models = service.Models(serving, store, following, First())  # type: ignore[arg-type]
    with suppress(InvalidRequest):
        await models.set_mode(mode)
    assert told == expected


async def test_without_a_loop_the_outbox_stays_stopped(tmp_path: Path) -> None:
    """Stopping it again is fine; starting it, or listing its images, says what to configure."""
    settings = Settings(data_folder=tmp_path)
    outbox = open_outbox(settings)
    control = OutboxControl(outbox)
    await control.set_mode(' stopped\n')
    assert control.mode() == 'stopped'
    with pytest.raises(InvalidRequest, match="'sometimes' is unknown"):
        await control.set_mode('sometimes')
    with pytest.raises(NoLearningLoop):
        await control.set_mode('continuous_upload')
    with pytest.raises(NoLearningLoop):
        control.listing(limit=1, offset=0)
    uploads = Uploads(make_serving(tmp_path)[0], make_collector(outbox, settings))
    with pytest.raises(NoLearningLoop):
        await uploads.upload([CARD], UploadRequest.parse({}))


def test_use_cases_know_no_transport() -> None:
    """The module imports no web framework and nothing of the doors."""
    tree = ast.parse(Path(service.__file__).read_text())
    names = {node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert 'detector.serving.inference' in names
    doors = ('fastapi', 'starlette', 'socketio', 'detector.api', 'detector.page', 'detector.ls_adapter')
    assert [name for name in names if name.startswith(doors)] == []
