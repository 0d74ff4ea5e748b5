"""Label Studio backend like label-studio-ml's examples: one task after the other, with rtmlib as it comes.

The backend runs in its own environment, in the server that `label-studio-ml init` creates; `label_studio` compares our
node with it. The environment variables DETECTOR and ESTIMATOR name the ONNX files, DETECTOR_SIZE and ESTIMATOR_SIZE the
sizes of their inputs as `width,height`.
"""

import os
import uuid
from typing import Any

import cv2
from label_studio_ml.model import LabelStudioMLBase  # type: ignore[import-not-found]
from rtmlib import Wholebody

THRESHOLD = 0.3
"""Lowest score of a keypoint in the result."""


class UsualBackend(LabelStudioMLBase):  # type: ignore[misc]
    """Backend that returns persons as `RectangleLabels` and keypoints as `KeyPointLabels`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        controls = self.parsed_label_config
        self.bbox = next(name for name, control in controls.items() if control['type'] == 'RectangleLabels')
        self.kp = next(name for name, control in controls.items() if control['type'] == 'KeyPointLabels')
        self.to_name = controls[self.bbox]['to_name'][0]
        self.value = controls[self.bbox]['inputs'][0]['value']
        self.person = controls[self.bbox]['labels'][0]
        labels = controls[self.kp]['labels_attrs']
        self.labels = sorted(labels, key=lambda label: int(labels[label]['model_index']))
        self.wholebody = Wholebody(
            det=os.environ['DETECTOR'],
            det_input_size=_size('DETECTOR_SIZE'),
            pose=os.environ['ESTIMATOR'],
            pose_input_size=_size('ESTIMATOR_SIZE'),
        )

    def predict(self, tasks: list[dict[str, Any]], **kwargs: Any) -> list[dict[str, Any]]:
        return [self.predict_one_task(task) for task in tasks]

    def predict_one_task(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run the steps of `Wholebody.__call__`, which returns no boxes; coordinates are percent of the image."""
        path = self.get_local_path(task['data'][self.value])
        image = cv2.imread(path)
        assert image is not None, path
        boxes = self.wholebody.det_model(image)
        keypoints, scores = self.wholebody.pose_model(image, bboxes=boxes)
        height, width = image.shape[:2]
        common = {
            'to_name': self.to_name,
            'original_width': width,
            'original_height': height,
            'image_rotation': 0,
        }
        regions: list[dict[str, Any]] = []
        for (x1, y1, x2, y2), points, certain in zip(boxes.tolist(), keypoints.tolist(), scores.tolist(), strict=False):
            person_id = uuid.uuid4().hex[:10]
            regions.append(
                {
                    'id': person_id,
                    'from_name': self.bbox,
                    'type': 'rectanglelabels',
                    'value': {
                        'x': 100 * x1 / width,
                        'y': 100 * y1 / height,
                        'width': 100 * (x2 - x1) / width,
                        'height': 100 * (y2 - y1) / height,
                        'rotation': 0,
                        'rectanglelabels': [self.person],
                    },
                    **common,
                }
            )
            for label, (x, y), score in zip(self.labels, points, certain, strict=True):
                if score < THRESHOLD:
                    continue
                regions.append(
                    {
                        'id': uuid.uuid4().hex[:10],
                        'parentID': person_id,
                        'from_name': self.kp,
                        'type': 'keypointlabels',
                        'value': {
                            'x': 100 * x / width,
                            'y': 100 * y / height,
                            'width': 0.5,
                            'keypointlabels': [label],
                        },
                        'score': score,
                        **common,
                    }
                )
        return {'result': regions, 'score': float(scores.mean()), 'model_version': 'rtmlib'}


def _size(variable: str) -> tuple[int, int]:
    width, height = os.environ[variable].split(',')
    return int(width), int(height)
