"""The skeleton of 133 keypoints, compared with rtmlib and COCO."""

import numpy as np
from rtmlib.visualization.skeleton.coco133 import coco133

from detector.pose.skeleton import (
    DRAWN_EDGES,
    FLIP_INDICES,
    KEYPOINT_COUNT,
    KEYPOINT_NAMES,
    OKS_SIGMAS,
    PARTS,
    SKELETON_EDGES,
    category_id,
    part_of,
)

UPSTREAM = {info['name']: index for index, info in coco133['keypoint_info'].items()}


def test_parts_cover_all_keypoints_once() -> None:
    """17 body, 6 feet, 68 face and 2 × 21 hand keypoints follow without gap or overlap."""
    assert [len(part.indices) for part in PARTS] == [17, 6, 68, 21, 21]
    assert [index for part in PARTS for index in part.indices] == list(range(KEYPOINT_COUNT))
    assert part_of(91).name == 'left_hand'


def test_swaps_equal_those_of_rtmlib() -> None:
    """Mirroring twice restores each index, and each pair is in rtmlib's table."""
    expected = [UPSTREAM[info['swap']] if info['swap'] else index for index, info in coco133['keypoint_info'].items()]
    assert list(FLIP_INDICES) == expected
    assert [FLIP_INDICES[index] for index in FLIP_INDICES] == list(range(KEYPOINT_COUNT))


def test_limbs_equal_those_of_rtmlib() -> None:
    """The 65 limbs are those of COCO-WholeBody; drawn edges stay within the schema."""
    upstream = {frozenset(UPSTREAM[name] for name in info['link']) for info in coco133['skeleton_info'].values()}
    assert {frozenset(edge) for edge in SKELETON_EDGES} == upstream
    assert len(SKELETON_EDGES) == 65
    assert {index for edge in DRAWN_EDGES for index in edge} <= set(range(KEYPOINT_COUNT))


def test_sigmas_are_those_of_coco_where_coco_has_them() -> None:
    """The 17 body sigmas are COCO's (cocoeval); all sigmas are positive; both hands have the same."""
    coco = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    np.testing.assert_allclose(OKS_SIGMAS[:17], np.array(coco) / 10, rtol=1e-6)
    assert OKS_SIGMAS.shape == (KEYPOINT_COUNT,)
    assert (OKS_SIGMAS > 0).all()
    np.testing.assert_array_equal(OKS_SIGMAS[91:112], OKS_SIGMAS[112:133])


def test_category_ids_never_change() -> None:
    """Installed packages contain these ids: a new namespace would orphan their annotations."""
    assert category_id('person') == 'ec153933-deee-56c8-b467-7986379e2312'
    assert len({category_id(name) for name in ('person', *KEYPOINT_NAMES)}) == KEYPOINT_COUNT + 1
