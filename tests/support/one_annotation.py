"""A double of Label Studio with one annotation per number, for the queue of corrections in one process."""

from pathlib import Path
from typing import Any

from benchmarks.support.cards import CARD
from detector.label_studio.backend.correction_queue import CorrectionQueue
from detector.label_studio.backend.corrections import Corrections
from detector.label_studio.labels.config import generate
from tests.support.outboxes import make_outbox


class OneAnnotation:
    """Answers each annotation, its task, its project and its image; the annotation shows no person."""

    async def annotation(self, number: int) -> dict[str, Any]:
        return {'id': number, 'task': 3, 'result': [], 'created_at': 'v0', 'updated_at': 'v1'}

    async def task(self, number: int) -> dict[str, Any]:
        return {'id': number, 'project': 1, 'data': {'image': 'image.jpg'}}

    async def project(self, number: int) -> dict[str, Any]:
        return {'id': number, 'label_config': generate('keypoints')}

    async def fetch(self, *_: Any, **__: Any) -> bytes:
        return CARD


def make_corrections(folder: Path, queue: CorrectionQueue) -> Corrections:
    """Return corrections that take their annotations from the double and put them into `outbox` of a folder."""
    outbox = make_outbox(folder / 'outbox', 'http://127.0.0.1:9/images')
    outbox.queue.load()
    studio: Any = OneAnnotation()
    return Corrections(queue, studio, studio, outbox, category_ids=lambda: {}, max_pixels=10**7)
