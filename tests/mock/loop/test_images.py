"""Images that the mock Loop receives."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.support.cards import CARD, FIGURES, make_card
from benchmarks.support.loops import MockLoopProcess
from detector.engine.pose_engine import PoseEngine
from detector.pose import images
from detector.wholebody_logic import WholebodyDetectorLogic
from tests.support.mock_loop import corrected_card, metadata, send_images


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'a.json': metadata(), 'a.jpg': b'text'}, 'a: the image is broken'),
        ({'a.json': metadata(), 'a.jpg': CARD[:2000]}, 'a: the image is broken'),
        ({'a.json': b'{', 'a.jpg': CARD}, 'a: the metadata is not JSON'),
        ({'a.json': b'[]', 'a.jpg': CARD}, 'a: the metadata'),
        ({'a.json': b'{"x": NaN}', 'a.jpg': CARD}, 'NaN is not a JSON number'),
        ({'a.json': metadata(tags=[1]), 'a.jpg': CARD}, 'a: tags.0'),
        ({'a.json': metadata(box_detections=[{'x': 1.5}]), 'a.jpg': CARD}, 'box_detections.0'),
        ({'a.json': metadata(box_annotations=[{'category_name': 'person'}]), 'a.jpg': CARD}, 'box_annotations.0.x'),
        ({'a.json': metadata(point_annotations=[{'x': 1, 'y': 2}]), 'a.jpg': CARD}, 'point_annotations.0'),
        ({'a%3A.json': metadata()}, 'a:: the batch has metadata, but no image'),
        ({'a%3A.jpg': CARD, 'a:.jpg': CARD}, 'a second image'),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_a_broken_part_rejects_the_whole_batch(loop: MockLoopProcess, files: dict[str, bytes], message: str) -> None:
    """A batch with a broken part gets 422 with the image's name, and no image is stored."""
    answer = send_images(loop, {'good.json': metadata(), 'good.jpg': CARD} | files)
    assert answer.status_code == 422
    assert message in answer.json()['detail']
    assert loop.images() == []


def test_skeletons_are_drawn_over_received_images(loop: MockLoopProcess, engine: PoseEngine) -> None:
    """The picture differs from the received image at the persons, and is equal without boxes."""
    found = json.dumps(asdict(WholebodyDetectorLogic(engine).evaluate(make_card()))).encode()
    assert send_images(loop, {'a.jpg': CARD, 'a.json': found, 'b.jpg': CARD, 'b.json': metadata()}).status_code == 200
    drawn = [images.decode_image(loop.jpeg(image['id'], skeletons=True)).astype(int) for image in loop.images()]
    changed = [int((np.abs(picture - images.decode_image(CARD)) > 60).any(axis=-1).sum()) for picture in drawn]
    assert changed[0] > 2000
    assert changed[1] == 0
    loop.delete_images()
    assert loop.images() == []


def test_annotated_persons_are_counted_and_drawn(loop: MockLoopProcess) -> None:
    """Boxes and points of a correction are counted and drawn as those of a detection are."""
    assert send_images(loop, {'a.jpg': CARD, 'a.json': corrected_card()}).status_code == 200
    (image,) = loop.images()
    assert (image['boxes'], image['points']) == (len(FIGURES), 133 * len(FIGURES))
    drawn = images.decode_image(loop.jpeg(image['id'], skeletons=True)).astype(int)
    changed = np.asarray((np.abs(drawn - images.decode_image(CARD)) > 60).any(axis=-1))
    for figure in FIGURES:
        x1, y1, x2, y2 = figure.box.astype(int).tolist()
        assert changed[y1:y2, x1:x2].sum() > 1000
    loop.delete_images()
