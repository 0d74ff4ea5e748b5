"""The figures about keypoints on annotated photographs."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.keypoints import ALL, Measured, measure, opened, plot, report, share_right
from detector.datasets.coco import read_coco, to_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import Person
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.models.embedded import EMBEDDED_PACKAGE, EXAMPLE_CARD
from detector.pose.images import read_image
from detector.pose.skeleton import PART_BY_NAME


@pytest.fixture
def truth(engine: PoseEngine, tmp_path: Path) -> list[LabelledImage]:
    """Return what the test card model itself sees on the example card, as annotations read from a COCO file."""
    pixels = read_image(EXAMPLE_CARD)
    persons = [Person.of(pose, threshold=0.3) for pose in engine.poses(pixels)]
    image = LabelledImage(
        id=1, file_name=EXAMPLE_CARD.name, width=pixels.shape[1], height=pixels.shape[0], persons=persons
    )
    (tmp_path / 'truth.json').write_text(json.dumps(to_coco([image])))
    return read_coco(tmp_path / 'truth.json')


def _measured(images: list[LabelledImage]) -> Measured:
    with opened(str(EMBEDDED_PACKAGE)) as package:
        return measure(package, images, EXAMPLE_CARD.parent, EngineOptions(backend_type='onnxruntime'))


def test_a_model_agrees_with_itself(truth: list[LabelledImage]) -> None:
    """Against its own answers a model has an OKS of nearly 1 in each part, finds everybody, and is right everywhere."""
    measured = _measured(truth)
    assert measured.found == measured.people == len(truth[0].persons) > 0
    assert measured.false == 0
    assert all(measured.oks(part) > 0.99 for part in measured.similarities)
    assert measured.right.mean() > 0.99


def test_moved_annotations_lower_their_part_only(truth: list[LabelledImage]) -> None:
    """If the annotated feet are elsewhere, the OKS of the feet is 0, that of the face is not touched."""
    feet = PART_BY_NAME['feet'].slice
    for person in truth[0].persons:
        person.keypoints[feet] += 300
    measured = _measured(truth)
    assert measured.oks('feet') < 0.01
    assert measured.oks('face') > 0.99
    assert 0.9 < measured.oks(ALL) < 0.99


def test_persons_and_boxes_without_partner_are_counted(truth: list[LabelledImage]) -> None:
    """An annotated person elsewhere is not found, and the box that found it before is false."""
    person = truth[0].persons[0]
    assert person.box is not None
    person.box[:] = [0, 0, 5, 5]
    measured = _measured(truth)
    assert (measured.found, measured.false) == (len(truth[0].persons) - 1, 1)


def test_the_table_and_the_plot_show_the_shares(tmp_path: Path) -> None:
    """Shares are counted by confidence, with the number of keypoints behind each; the plot is a picture."""
    measured = Measured(
        name='model 1.0',
        similarities={name: [0.5, 0.7] for name in (*PART_BY_NAME, ALL)},
        confidences=np.array([0.95, 1.0, 0.92, 0.4], dtype=np.float32),
        right=np.array([True, True, False, False]),
        milliseconds=40,
        people=3,
        found=2,
        false=1,
    )
    share, count = share_right(measured, 0.9, 1.0)
    assert share == pytest.approx(2 / 3)
    assert count == 3
    table = report([measured])
    for row in ('| OKS, body | 0.600 (2) |', '| found / false | 2 of 3 / 1 |', '| right at 0.9 to 1.0 | 67% (3) |'):
        assert row in table
    plot([measured], tmp_path / 'plot.png')
    assert read_image(tmp_path / 'plot.png').shape[2] == 3
