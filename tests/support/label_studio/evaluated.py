"""Predicted and corrected persons, and the figures of faster-coco-eval for them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detector.datasets.person import NOT_LABELLED, VISIBLE, Person
from detector.label_studio.evaluation.evaluation import (
    Evaluated,
    Evaluation,
    PartFigures,
    evaluate,
)
from detector.pose.skeleton import OKS_SIGMAS, PART_BY_NAME, Part

SIZE = (1000, 800)


NOSE = 0


LEFT_HAND = PART_BY_NAME['left_hand']


def make_person(x: float = 100, y: float = 100, *, width: float = 200, height: float = 400, seed: int = 0) -> Person:
    """Make a predicted person with all keypoints inside the box."""
    corner, sides = np.array([x, y]), np.array([width, height])
    places = np.random.default_rng(seed).uniform(0.05, 0.95, (133, 2))
    return Person(
        box=np.concatenate([corner, corner + sides]).astype(np.float32),
        box_score=0.9,
        keypoints=(corner + sides * places).astype(np.float32),
        visibility=np.full(133, VISIBLE, dtype=np.int8),
        scores=np.full(133, 0.8, dtype=np.float32),
    )


def by_hand(person: Person) -> Person:
    """Return the person as an annotator would have labelled it."""
    return replace(person, box_score=None, scores=np.full(133, np.nan, dtype=np.float32))


def moved(person: Person, indices: Sequence[int], x: float, y: float = 0) -> Person:
    keypoints = person.keypoints.copy()
    keypoints[list(indices)] += np.array([x, y], dtype=np.float32)
    return replace(person, keypoints=keypoints)


def without(person: Person, indices: Sequence[int]) -> Person:
    """Return the person without some keypoints, as read from Label Studio: unlabelled ones have no coordinates."""
    keypoints, visibility = person.keypoints.copy(), person.visibility.copy()
    keypoints[list(indices)] = 0
    visibility[list(indices)] = NOT_LABELLED
    return replace(person, keypoints=keypoints, visibility=visibility)


def make_image(
    people: Sequence[Person], predicted: Sequence[Person], name: str = 'image.jpg', version: str = 'm 1.0'
) -> Evaluated:
    return Evaluated(name=name, people=people, predicted=predicted, model_version=version)


def part_of(evaluation: Evaluation, name: str) -> PartFigures:
    return next(part for part in evaluation.parts if part.name == name)


def coco_figures(images: Sequence[Evaluated], part: Part) -> list[float]:
    """Return AP, AP50, AP75 and AR by faster-coco-eval alone, from files in COCO's format."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id, image in enumerate(images):
        for person in image.people:
            assert person.box is not None
            x1, y1, x2, y2 = person.box.astype(float).tolist()
            points = np.column_stack([person.keypoints, person.visibility]).astype(float)[part.slice]
            truth.append(
                {
                    'id': len(truth) + 1,
                    'image_id': image_id,
                    'category_id': 1,
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': 0.53 * (x2 - x1) * (y2 - y1),
                    'iscrowd': 0,
                    'keypoints': points.ravel().tolist(),
                    'num_keypoints': int((points[:, 2] > 0).sum()),
                }
            )
        for person in image.predicted:
            shown = person.visibility > 0
            if not shown[part.slice].any():
                continue
            points = np.where(shown[:, None], person.keypoints, 1e4).astype(float)[part.slice]
            score = float(np.float64(person.box_score or 0) * person.scores[shown].mean(dtype=np.float64))
            found.append(
                {
                    'image_id': image_id,
                    'category_id': 1,
                    'keypoints': np.column_stack([points, np.ones(len(points))]).ravel().tolist(),
                    'score': score,
                }
            )
    coco = COCO(
        {
            'images': [{'id': image_id, 'width': SIZE[0], 'height': SIZE[1]} for image_id in range(len(images))],
            'categories': [{'id': 1, 'name': 'person'}],
            'annotations': truth,
        }
    )
    evaluator = COCOeval_faster(coco, coco.loadRes(found), 'keypoints', kpt_oks_sigmas=OKS_SIGMAS[part.slice].tolist())
    evaluator.run()
    statistics = evaluator.stats_as_dict
    return [statistics[key] for key in ('AP_all', 'AP_50', 'AP_75', 'AR_all')]


def unsure(person: Person, part: str, confidence: float) -> Person:
    scores = person.scores.copy()
    scores[PART_BY_NAME[part].slice] = confidence
    return replace(person, scores=scores)


def measure(people: Sequence[Person], predicted: Sequence[Person]) -> Evaluation:
    """Evaluate one image."""
    return evaluate([make_image(people, predicted)])
