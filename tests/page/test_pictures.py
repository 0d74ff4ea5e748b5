"""Thumbnails with skeletons, and the poses of full-size images."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES, assert_read, make_card
from detector.engine.pose_engine import PoseEngine
from detector.errors import ImageTooLarge
from detector.loop.metadata import to_metadata
from detector.page.pictures import THUMBNAIL_SIDE, poses_of_picture, thumbnail
from detector.pose import images
from detector.pose.pose import Pose


def test_a_thumbnail_has_the_skeletons_in_their_places(engine: PoseEngine) -> None:
    """The thumbnail differs from the bare picture near each keypoint, and not away from the persons."""
    card = make_card(width=1440, height=960)
    poses = engine.poses(card)
    metadata = asdict(to_metadata(poses, engine.package))
    drawn = images.decode_image(thumbnail(card, metadata, confidence_threshold=0.3))
    bare = images.decode_image(thumbnail(card, {}, confidence_threshold=0.3))
    assert drawn.shape == (THUMBNAIL_SIDE * 2 // 3, THUMBNAIL_SIDE, 3)
    changed = np.abs(drawn.astype(int) - bare).max(axis=2) > 40
    for figure in FIGURES:
        x, y = np.round((figure.keypoints[:17] + 0.5) / 4 - 0.5).astype(int).T
        near = [changed[b - 1 : b + 2, a - 1 : a + 2].any() for a, b in zip(x, y, strict=True)]
        assert np.mean(near) > 0.9
    assert not changed[:, 200:].any()


def test_the_poses_of_a_stored_image_are_those_that_were_found(engine: PoseEngine) -> None:
    """The Loop's metadata becomes the form of `POST /poses`."""
    card = make_card()
    metadata = asdict(to_metadata(engine.poses(card), engine.package))
    answer = json.loads(poses_of_picture(images.encode_jpeg(card), metadata))
    assert answer['image'] == {'width': 720, 'height': 480}
    assert answer['model_version'] == engine.package.reported_version
    assert_read([Pose.from_json(pose) for pose in answer['poses']], FIGURES)
    assert json.loads(poses_of_picture(images.encode_jpeg(card), {}))['poses'] == []
    with pytest.raises(ImageTooLarge, match='MAX_IMAGE_PIXELS'):
        poses_of_picture(images.encode_jpeg(card), {}, max_pixels=720 * 480 - 1)
