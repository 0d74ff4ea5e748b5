"""The Loop's metadata: made from poses, converted back, and read from uploads."""

from typing import Any

import numpy as np
import pytest
from learning_loop_node.data_classes import ImageMetadata, ModelInformation

from detector.errors import InvalidRequest
from detector.loop import metadata
from detector.models.package import ModelPackage
from detector.pose.pose import poses_from_metadata
from detector.pose.skeleton import category_id
from tests.support.poses import make_pose

BOX = {'category_name': 'person', 'x': 1, 'y': 2, 'width': 3, 'height': 4, 'model_name': 'm', 'confidence': 0.5}
POINT = {'category_name': 'nose', 'x': 1.5, 'y': 2, 'model_name': 'm', 'confidence': 0.5}


@pytest.fixture(scope='module')
def model_info(embedded: ModelPackage) -> ModelInformation:
    information = ModelInformation.load_from_disk(str(embedded.folder))
    assert information is not None
    return information


def test_poses_survive_the_loops_form(embedded: ModelPackage) -> None:
    """Points stay within 0.01 px, boxes within half a pixel, and persons stay apart."""
    from dataclasses import asdict

    poses = [make_pose(1), make_pose(2)]
    again = poses_from_metadata(asdict(metadata.to_metadata(poses, embedded)))
    assert len(again) == 2
    for pose, copy in zip(poses, again, strict=True):
        np.testing.assert_allclose(copy.keypoints, pose.keypoints, atol=0.0051)
        np.testing.assert_allclose(copy.confidences, pose.confidences, atol=0.000051)
        np.testing.assert_allclose(copy.box, pose.box, atol=0.5)


def test_boxes_without_points_have_no_visible_keypoints() -> None:
    """An upload may have boxes only; unknown points are ignored."""
    (alone,) = poses_from_metadata({'box_detections': [BOX]})
    assert alone.confidences.max() == 0
    (pointed,) = poses_from_metadata(
        {'box_detections': [BOX], 'point_detections': [POINT, POINT | {'category_name': 'x'}]}
    )
    assert (pointed.confidences > 0).sum() == 1
    assert poses_from_metadata({'box_detections': None}) == []


def test_metadata_is_read_as_rosys_sends_it() -> None:
    """`creation_date` stands for `created`, boxes may have fractions, floats may be integers; the default is empty."""
    given = metadata.parse(
        {
            'box_detections': [BOX | {'x': 1.0, 'width': 2.6}],
            'point_detections': [POINT],
            'tags': ['a'],
            'source': 's',
            'creation_date': '2026-01-31T12:00:00',
            'unknown': 5,
        }
    )
    box = given.box_detections[0]
    assert (box.x, box.width, given.point_detections[0].y) == (1, 3, 2)
    assert (given.tags, given.source, given.created) == (['a'], 's', '2026-01-31T12:00:00')
    assert metadata.parse({'created': '2026-01-31', 'creation_date': '2025-01-31'}).created == '2026-01-31'
    nothing: dict[str, object] = {}
    for empty in (None, nothing):
        given = metadata.parse(empty)
        assert given == ImageMetadata(created=given.created)


BAD: dict[str, tuple[Any, str]] = {
    'text': ('metadata', 'must be an object'),
    'list': ([], 'must be an object'),
    'tags': ({'tags': 5}, 'tags'),
    'tag': ({'tags': [5]}, 'tags.0'),
    'boxes': ({'box_detections': {'a': 1}}, 'box_detections'),
    'box': ({'box_detections': [5]}, 'box_detections.0'),
    'field': ({'box_detections': [{'category_name': 'person'}]}, 'box_detections.0.x'),
    'side': ({'box_detections': [BOX | {'x': 'left'}]}, 'box_detections.0.x'),
    'far box': ({'box_detections': [BOX | {'x': 10**7}]}, 'person: the coordinate 10000000 exceeds ±1000000 pixels'),
    'huge point': ({'point_detections': [POINT | {'x': 1e300}]}, 'nose: the coordinate 1e+300 exceeds'),
    'surrogate': ({'source': 'x\ud800'}, 'not valid Unicode'),
    'infinite box': ({'box_detections': [BOX | {'x': float('inf')}]}, 'box_detections.0.x'),
    'nan': ({'point_detections': [POINT | {'x': float('nan')}]}, 'not JSON compliant'),
    'annotation': ({'point_annotations': [{'x': 1, 'y': 1}]}, 'point_annotations.0.category_name'),
    'date': ({'created': 'yesterday'}, "'yesterday' is not ISO 8601"),
    'date type': ({'creation_date': 5}, 'created'),
    'class': ({'classification_annotation': 'x'}, 'classification_annotation'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_metadata_names_the_field(name: str) -> None:
    """The error names the malformed field."""
    payload, message = BAD[name]
    with pytest.raises(InvalidRequest, match='(?s)metadata|creation date|a text') as caught:
        metadata.parse(payload)
    assert message in str(caught.value)


def test_categories_get_the_ids_of_the_model(embedded: ModelPackage, model_info: ModelInformation) -> None:
    """All kinds of detections and annotations get ids, aliases of keypoints get their names, and wrong ids are
    corrected.
    """
    annotation = {'category_name': 'face-0', 'x': 1, 'y': 1}
    given = metadata.parse(
        {
            'box_detections': [BOX | {'category_id': 'wrong'}],
            'point_detections': [POINT | {'category_name': 'LEFT_HAND_ROOT'}],
            'box_annotations': [{'category_name': 'person', 'x': 1, 'y': 1, 'width': 2, 'height': 2}],
            'point_annotations': [annotation],
            'classification_annotation': {'category_name': 'sitting', 'category_id': 'theirs'},
        }
    )
    metadata.add_category_ids(given, embedded, model_info)
    assert given.box_detections[0].category_id == given.box_annotations[0].category_id == category_id('person')
    assert given.point_detections[0].category_name == 'left_hand_0'
    assert given.point_detections[0].category_id == category_id('left_hand_0')
    assert given.point_annotations[0].category_name == 'face_0'
    assert given.point_annotations[0].category_id == category_id('face_0')
    assert given.classification_annotation is not None
    assert given.classification_annotation.category_id == 'theirs'


def test_other_categories_of_the_model_are_known(embedded: ModelPackage, model_info: ModelInformation) -> None:
    """A project in the Loop may have more categories than the node's own."""
    from copy import deepcopy

    from learning_loop_node.data_classes import Category

    more = deepcopy(model_info)
    more.categories.append(Category(id='d', name='dog', type='box'))
    given = metadata.parse({'box_detections': [BOX | {'category_name': 'dog'}]})
    metadata.add_category_ids(given, embedded, more)
    assert given.box_detections[0].category_id == 'd'


def test_unknown_categories_are_an_error(embedded: ModelPackage, model_info: ModelInformation) -> None:
    """The error lists the categories without an id, up to a limit."""
    given = metadata.parse({'box_detections': [BOX | {'category_name': f'kind {n}'} for n in range(9)]})
    with pytest.raises(InvalidRequest, match="knows no category 'kind 0', .*'kind 4' and 4 more"):
        metadata.add_category_ids(given, embedded, model_info)


@pytest.mark.parametrize(
    'text', ['2026-01-31', '2026-01-31T12:00:00Z', '2026-01-31_12:00:00.123', '2026-01-31 12:00+01:00']
)
def test_iso_dates_are_accepted(text: str) -> None:
    """Any separator that rosys and learning_loop_node write is accepted."""
    assert metadata.check_date(text) == text
