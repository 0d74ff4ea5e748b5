"""Images with the Learning Loop's metadata: thumbnails with skeletons, and the poses of full-size images."""

import json
from dataclasses import replace
from typing import Any, Final

import cv2
import numpy as np

from detector.pose import images, overlay
from detector.pose.images import Image
from detector.pose.pose import Pose, poses_from_metadata, poses_to_json

THUMBNAIL_SIDE: Final = 360
"""Longer side of a thumbnail in pixels, which is twice the displayed size, for high-resolution screens."""


def thumbnail(picture: Image, metadata: dict[str, Any], *, confidence_threshold: float) -> bytes:
    """Return a small JPEG with the skeletons of the Loop's metadata drawn over it.

    :param picture: RGB uint8, H×W×3.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / max(width, height))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    poses = [_scaled(pose, scale) for pose in poses_from_metadata(metadata)]
    return images.encode_jpeg(overlay.draw_poses(small, poses, confidence_threshold=confidence_threshold), quality=88)


def _scaled(pose: Pose, scale: float) -> Pose:
    half = np.float32(0.5)  # the centre of the upper left pixel is (0, 0)
    return replace(pose, box=(pose.box + half) * scale - half, keypoints=(pose.keypoints + half) * scale - half)


def poses_of_picture(jpeg: bytes, metadata: dict[str, Any], *, max_pixels: int = images.DEFAULT_MAX_PIXELS) -> bytes:
    """Return the poses in the Loop's metadata as JSON in the form of `POST /poses`."""
    width, height = images.upright_size(jpeg, max_pixels=max_pixels)
    boxes = metadata.get('box_detections') or []
    version = next((f'{box.get("model_name")}' for box in boxes), '')
    answer = poses_to_json(poses_from_metadata(metadata), width=width, height=height, model_version=version)
    return json.dumps(answer, allow_nan=False).encode()
