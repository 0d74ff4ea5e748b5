"""What the collector does with images while the disk is slow or refuses them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_loop_node.data_classes import ImageMetadata

from benchmarks.support.waiting import PATIENCE
from detector.errors import Busy, DeadlineExceeded, InvalidImage, NoLearningLoop, OutboxFault, RequestTooLarge
from detector.loop.metadata import to_metadata
from detector.models.package import ModelPackage
from detector.outbox import collector as collector_module
from detector.outbox import relevance as relevance_module
from detector.outbox.collector import MAX_SAVING, Collector, make_collector
from detector.outbox.outbox import Outbox, open_outbox
from detector.pose import images
from detector.serving.inference import Estimate
from detector.settings import Settings
from tests.support.poses import person

FRAME = np.zeros((800, 6000, 3), dtype=np.uint8)
JPEG = images.encode_jpeg(np.zeros((16, 16, 3), dtype=np.uint8))


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    opened = open_outbox(
        Settings(data_folder=tmp_path, loop_host='localhost:1', loop_organization='o', loop_project='p')
    )
    return opened


@pytest.fixture
def collector(outbox: Outbox) -> Collector:
    return Collector(outbox, Settings())


class Slow:
    """A slow disk."""

    def __init__(self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        save = outbox.save

        async def slowly(*arguments: Any, **options: Any) -> Any:
            self.begun.set()
            await self.go.wait()
            return await save(*arguments, **options)

        monkeypatch.setattr(outbox, 'save', slowly)


async def collect(collector: Collector, package: ModelPackage, *, x: float = 300, filtered: bool = True) -> list[str]:
    """Collect a frame with an uncertain person and return its tags."""
    estimate = Estimate(image=FRAME, poses=[person(x, face=0.45)], package=package, timing={})
    metadata = ImageMetadata()
    await collector.collect(FRAME, estimate, metadata, camera_id='c', filtered=filtered)
    return metadata.tags


async def test_the_answer_does_not_wait_for_the_disk(
    collector: Collector, outbox: Outbox, embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is saved after the answer, and closing waits for it."""
    disk = Slow(outbox, monkeypatch)
    async with asyncio.timeout(1):
        assert await collect(collector, embedded) == ['uncertain', 'uncertain_face']
    assert outbox.queue.count == 0
    asyncio.get_running_loop().call_later(0.2, disk.go.set)
    await collector.close(seconds=2)
    assert outbox.queue.count == 1


async def test_a_disk_that_is_behind_costs_images_not_memory(
    collector: Collector,
    outbox: Outbox,
    embedded: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An image without a slot in memory waits briefly, and is then dropped, counted, logged and relevant again."""
    monkeypatch.setattr(collector_module, 'WAIT_SECONDS', 0.1)
    disk = Slow(outbox, monkeypatch)
    for number in range(MAX_SAVING):
        assert await collect(collector, embedded, x=500 + 500 * number)
    assert await collect(collector, embedded, x=10)
    assert outbox.queue.counters.failed == 1
    assert "camera 'c'" in caplog.text
    assert 'others are not on the disk yet' in caplog.text
    disk.go.set()
    await collector.close(seconds=2)
    assert await collect(collector, embedded, x=10), 'relevant again'
    assert not await collect(collector, embedded, x=500)
    await collector.close(seconds=2)
    assert outbox.queue.count == MAX_SAVING + 1


@pytest.mark.parametrize('error', [OutboxFault('disk full'), RuntimeError('unforeseen')])
async def test_a_failed_save_fails_no_detection(
    collector: Collector,
    outbox: Outbox,
    embedded: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """A failed save is logged, frees its slot, and makes its pose relevant again in the next frame."""

    async def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(outbox, 'save', failing)
    reason = 'disk full' if isinstance(error, OutboxFault) else "RuntimeError('unforeseen')"
    for _ in range(2 * MAX_SAVING):
        assert await collect(collector, embedded)
        await collector.close(seconds=2)
    assert caplog.text.count("an image of camera 'c', source ") == 2 * MAX_SAVING
    assert caplog.text.count(f'was not saved and will not reach the Learning Loop: {reason}') == 2 * MAX_SAVING
    assert outbox.queue.counters.failed == (0 if isinstance(error, OutboxFault) else 2 * MAX_SAVING), (
        'the outbox counts'
    )


async def test_what_the_disk_has_not_got_at_the_end_is_told(
    collector: Collector,
    outbox: Outbox,
    embedded: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Closing waits up to its time limit; the remaining images are counted and named."""
    Slow(outbox, monkeypatch)
    for number in range(3):
        await collect(collector, embedded, x=500 + 500 * number)
    await collector.close(seconds=0.1)
    assert outbox.queue.counters.failed == 3
    assert caplog.text.count('the node shut down before it was written') == 3


async def test_a_disk_that_is_behind_holds_a_batch_back_once(
    collector: Collector, outbox: Outbox, embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image without a slot waits; the others of its batch are dropped at once."""
    disk = Slow(outbox, monkeypatch)
    for _ in range(MAX_SAVING):
        await collect(collector, embedded, filtered=False)
    monkeypatch.setattr(collector_module, 'WAIT_SECONDS', 0.1)
    await collect(collector, embedded, filtered=False)
    monkeypatch.setattr(collector_module, 'WAIT_SECONDS', 10 * PATIENCE)
    async with asyncio.timeout(PATIENCE):
        for _ in range(19):
            await collect(collector, embedded, filtered=False)
    assert outbox.queue.counters.failed == 20
    disk.go.set()
    await collector.close(seconds=PATIENCE)
    await collect(collector, embedded, filtered=False)
    await collector.close(seconds=PATIENCE)
    assert outbox.queue.count == MAX_SAVING + 1


async def test_the_first_image_without_a_slot_waits_for_one(
    collector: Collector, outbox: Outbox, embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image for which the disk gets ready in time is stored."""
    monkeypatch.setattr(collector_module, 'WAIT_SECONDS', PATIENCE)
    disk = Slow(outbox, monkeypatch)
    for _ in range(MAX_SAVING):
        await collect(collector, embedded, filtered=False)
    asyncio.get_running_loop().call_later(0.05, disk.go.set)
    await collect(collector, embedded, filtered=False)
    await collector.close(seconds=PATIENCE)
    assert (outbox.queue.count, outbox.queue.counters.failed) == (MAX_SAVING + 1, 0)
    assert collector._saving == set(), 'finished tasks must not take memory'


async def test_cameras_are_judged_by_themselves(
    outbox: Outbox, embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thresholds, the random share and the reset time are the settings'; each camera has a history and a budget."""
    monkeypatch.setattr(relevance_module, 'BURST', 1)
    settings = Settings(
        min_uncertain_threshold=0.4,
        max_uncertain_threshold=0.5,
        relevance_reset_seconds=50,
        random_upload_share=0.25,
        loop_host='l',
        loop_organization='o',
        loop_project='p',
    )
    collector = make_collector(outbox, settings)
    relevance = collector.relevance
    assert (relevance._min, relevance._max, relevance._reset_seconds, relevance._random_share) == (0.4, 0.5, 50, 0.25)
    monkeypatch.setattr(relevance, '_random_share', 0)
    for camera_id in ('c', 'd'):
        assert collector.judges(camera_id)
        for _ in range(2):
            estimate = Estimate(image=FRAME, poses=[person(face=0.45)], package=embedded, timing={})
            await collector.collect(JPEG, estimate, ImageMetadata(), camera_id=camera_id, filtered=True)
        assert not collector.judges(camera_id)
    await collector.close(seconds=PATIENCE)
    entries = outbox.queue.waiting()
    assert [entry.jpeg.read_bytes() for entry in entries] == [JPEG, JPEG], 'the received file is stored unchanged'


async def test_uploads_are_stored_as_they_are_asked_for(outbox: Outbox) -> None:
    """Names, tag and priority are those of the upload, and an image beyond MAX_IMAGE_PIXELS is refused."""
    collector = Collector(outbox, Settings(max_image_pixels=256))
    names = await collector.accept([(JPEG, ImageMetadata(tags=['mine'])), (JPEG, ImageMetadata())], priority=True)
    entries = outbox.queue.waiting()
    assert [entry.name for entry in entries] == names
    assert [(entry.priority, entry.describe().tags) for entry in entries] == [
        (True, ['mine', 'picked_by_system']),
        (True, ['picked_by_system']),
    ]
    large = images.encode_jpeg(np.zeros((16, 17, 3), dtype=np.uint8))
    with pytest.raises(InvalidImage, match='17×16 pixels; the limit is 256'):
        await collector.accept([(JPEG, ImageMetadata()), (large, ImageMetadata())], priority=True)
    assert outbox.queue.count == 2


async def test_an_upload_waits_for_its_turn_up_to_a_limit(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that does not get its turn in time is refused."""
    monkeypatch.setattr(collector_module, 'UPLOAD_DEADLINE', 0.1)
    collector = Collector(outbox, Settings())
    disk = Slow(outbox, monkeypatch)
    first = asyncio.create_task(collector.accept([(JPEG, ImageMetadata())], priority=False))
    await asyncio.wait_for(disk.begun.wait(), PATIENCE)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(collector.accept([(JPEG, ImageMetadata())], priority=False), PATIENCE)
    disk.go.set()
    assert len(await first) == 1


async def test_without_a_loop_nothing_is_collected(outbox: Outbox, embedded: ModelPackage, tmp_path: Path) -> None:
    """An upload is refused with the remedy, and a detected image is not stored."""
    collector = make_collector(outbox, Settings(data_folder=tmp_path))
    with pytest.raises(NoLearningLoop, match='^An upload '):
        await collector.accept([(JPEG, ImageMetadata())], priority=False)
    assert await collect(collector, embedded) == []
    await collector.close(seconds=PATIENCE)
    assert outbox.queue.count == 0


async def test_uploads_queue_up_to_a_limit(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads are decoded and stored one at a time; those beyond the limit are refused at once."""
    collector = Collector(outbox, Settings(max_waiting=2))
    disk = Slow(outbox, monkeypatch)
    waiting = [asyncio.create_task(collector.accept([(JPEG, ImageMetadata())], priority=False)) for _ in range(3)]
    await asyncio.wait_for(disk.begun.wait(), PATIENCE)
    with pytest.raises(Busy):
        await asyncio.wait_for(collector.accept([(JPEG, ImageMetadata())], priority=False), PATIENCE)
    assert not any(upload.done() for upload in waiting)
    disk.go.set()
    assert len(await asyncio.gather(*waiting)) == 3


async def test_an_upload_may_not_take_minutes(
    collector: Collector, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload with too many pixels in all is refused before any image is decoded, and stores nothing."""
    monkeypatch.setattr(collector_module, 'MAX_UPLOAD_PIXELS', 1023)
    uploads = [(JPEG, ImageMetadata()) for _ in range(3)] + [(np.zeros((16, 16, 3), dtype=np.uint8), ImageMetadata())]
    with pytest.raises(RequestTooLarge, match='1024 pixels together; the limit is 1023'):
        await collector.accept(uploads, priority=False)
    assert outbox.queue.count == 0
    monkeypatch.setattr(collector_module, 'MAX_UPLOAD_PIXELS', 1024)
    assert len(await collector.accept(uploads, priority=False)) == 4


async def test_everything_can_be_wanted(collector: Collector, outbox: Outbox, embedded: ModelPackage) -> None:
    """`autoupload: all` skips the relevance filter and adds no tags."""
    for _ in range(3):
        assert await collect(collector, embedded, filtered=False) == []
    await collector.close(seconds=2)
    assert outbox.queue.count == 3


async def test_accepted_uploads_are_counted_in_the_error(
    collector: Collector, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three images does not fit: the first is accepted, and the error states that number."""
    save = outbox.save

    async def full(jpeg: bytes, *arguments: Any, **options: Any) -> Any:
        if outbox.queue.count == 1:
            raise OutboxFault('disk full')
        return await save(jpeg, *arguments, **options)

    monkeypatch.setattr(outbox, 'save', full)
    uploads = [(JPEG, ImageMetadata(tags=['picked_by_system'])) for _ in range(3)]
    with pytest.raises(OutboxFault, match='disk full; 1 of 3 images are accepted'):
        await collector.accept(uploads, priority=False)
    (entry,) = outbox.queue.waiting()
    assert entry.describe().tags == ['picked_by_system']


def test_empty_frames_cost_nothing(collector: Collector, outbox: Outbox, embedded: ModelPackage) -> None:
    """An image without persons is not relevant."""

    async def frame() -> None:
        estimate = Estimate(image=np.zeros((10, 10, 3), dtype=np.uint8), poses=[], package=embedded, timing={})
        await collector.collect(b'', estimate, ImageMetadata(), camera_id=None, filtered=True)
        await collector.close(seconds=2)

    asyncio.run(frame())
    assert outbox.queue.count == 0


async def test_an_uncertain_person_who_is_not_answered_reaches_the_loop(
    collector: Collector, outbox: Outbox, embedded: ModelPackage
) -> None:
    """Relevance sees the poses below the threshold; the stored image shows them, and the answer only has the tags."""
    answered, doubted = person(300), person(1000, box_confidence=0.4)
    estimate = Estimate(image=FRAME, poses=[answered], package=embedded, timing={}, uncertain=[doubted])
    answer = to_metadata([answered], embedded)
    await collector.collect(FRAME, estimate, answer, camera_id='c', filtered=True)
    await collector.close(seconds=2)
    assert answer.tags == ['uncertain', 'uncertain_person']
    assert [box.confidence for box in answer.box_detections] == [0.9]
    (entry,) = outbox.queue.waiting()
    stored = json.loads(entry.metadata.read_text())
    assert stored['tags'] == answer.tags
    assert [box['confidence'] for box in stored['box_detections']] == [0.9, 0.4]
    assert len(stored['point_detections']) == 2 * 133


async def test_an_image_with_another_reason_is_stored_as_answered(
    collector: Collector, outbox: Outbox, embedded: ModelPackage
) -> None:
    """An uncertain person that the camera has shown before adds no box to an image that another pose makes relevant."""
    doubted = person(1000, box_confidence=0.4)
    for poses in ([], [person(300, face=0.45)]):
        estimate = Estimate(image=FRAME, poses=poses, package=embedded, timing={}, uncertain=[doubted])
        answer = to_metadata(poses, embedded)
        await collector.collect(FRAME, estimate, answer, camera_id='c', filtered=True)
    await collector.close(seconds=2)
    assert answer.tags == ['uncertain', 'uncertain_face']
    stored = [json.loads(entry.metadata.read_text())['box_detections'] for entry in outbox.queue.waiting()]
    assert [len(boxes) for boxes in stored] == [1, 1]


def test_uncertain_boxes_are_wanted_for_the_loop_only(outbox: Outbox, tmp_path: Path) -> None:
    """With a Learning Loop the collector judges images; without one it does not, so no extra pose is estimated."""
    assert make_collector(outbox, Settings(loop_host='l', loop_organization='o', loop_project='p')).judges('c')
    assert not make_collector(outbox, Settings(data_folder=tmp_path)).judges('c')
