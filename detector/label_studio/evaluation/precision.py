"""Average precision of keypoints, computed by faster-coco-eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from detector.errors import ExtraMissing
from detector.pose.similarity import oks
from detector.pose.skeleton import OKS_SIGMAS, Part

from .matching import Floats, PersonArrays, similarities

JsonObject = dict[str, Any]

_MAX_PREDICTED: Final = 20
"""Number of predictions per image that COCO counts (`maxDets`), raised for images with more predicted persons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """COCO's figures for keypoints, 0..1: over the OKS thresholds 0.5, 0.55 … 0.95, and at 0.5 and 0.75 alone."""

    ap: float
    ap50: float
    ap75: float
    ar: float


def precision(images: Sequence[tuple[PersonArrays, PersonArrays]], part: Part) -> Precision | None:
    """Return average precision and recall for one part, by faster-coco-eval on the OKS of `similarities`.

    As in COCO, persons without a labelled keypoint of the part are ignored, and so are predictions in their place.
    Unlike in COCO, predicted persons without a keypoint of the part are left out.

    :param images: annotated and predicted persons of each image.
    :return: None if no keypoint of the part is labelled.
    :raises ExtraMissing: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ExtraMissing('faster-coco-eval', extra='evaluate') from error
    if not any(people.with_any_of(part).any() for people, _ in images):
        return None
    truth, found, matrices = _annotations(images, part)
    frame = {'images': [{'id': image_id} for image_id in matrices], 'categories': [{'id': 1, 'name': 'person'}]}
    evaluator = COCOeval_faster(COCO(frame | {'annotations': truth}), COCO(frame | {'annotations': found}), 'keypoints')
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, np.inf]], ['all']
    evaluator.params.maxDets = [max(_MAX_PREDICTED, *(len(predicted) for _, predicted in images))]
    # this matrix gives keypoints that were not predicted a similarity of 0, which the library's own does not
    evaluator.computeOks = lambda image_id, category_id: matrices[image_id]
    evaluator.evaluate()
    evaluator.accumulate()
    precisions, recalls = evaluator.eval['precision'][..., 0, 0, 0], evaluator.eval['recall'][..., 0, 0, 0]
    return Precision(
        ap=float(precisions.mean()),
        ap50=float(precisions[0].mean()),
        ap75=float(precisions[5].mean()),
        ar=float(recalls.mean()),
    )


def _annotations(
    images: Sequence[tuple[PersonArrays, PersonArrays]], part: Part
) -> tuple[list[JsonObject], list[JsonObject], dict[int, Floats]]:
    """Return COCO's annotations for annotated and for predicted persons, and their OKS by image id, shape (D, G)."""
    truth: list[JsonObject] = []
    found: list[JsonObject] = []
    matrices: dict[int, Floats] = {}
    for image_id, (people, everybody) in enumerate(images, start=1):
        predicted = everybody.take(everybody.with_any_of(part))
        predicted = predicted.take(np.argsort(-predicted.scores, kind='stable'))
        for area, labelled in zip(people.areas.tolist(), people.labelled[:, part.slice], strict=True):
            person = {'id': len(truth) + 1, 'image_id': image_id, 'category_id': 1, 'iscrowd': 0}
            truth.append(person | {'area': area, 'num_keypoints': int(labelled.sum())})
        for score in predicted.scores.tolist():
            found.append({'id': len(found) + 1, 'image_id': image_id, 'category_id': 1, 'area': 1.0, 'score': score})
        matrices[image_id] = _with_ignored(people, predicted, part).T
    return truth, found, matrices


def _with_ignored(people: PersonArrays, predicted: PersonArrays, part: Part) -> Floats:
    """Return `similarities`; for persons without a labelled keypoint of the part, how near to them predictions lie.

    COCO measures distances from the box, enlarged by its own size on every side (pycocotools, `computeOks`).

    :return: shape (G, D).
    """
    values = similarities(people, predicted, part)
    ignored = np.flatnonzero(~people.with_any_of(part))
    boxes, sides = people.boxes[ignored, None, None], people.sides[ignored, None, None]
    places = predicted.keypoints[None, :, part.slice]
    nearest = np.clip(places, boxes[..., :2] - sides, boxes[..., 2:] + sides)
    values[ignored] = oks(
        places,
        nearest,
        predicted.labelled[None, :, part.slice],
        area=people.areas[ignored, None],
        sigmas=OKS_SIGMAS[part.slice],
    )
    return values
