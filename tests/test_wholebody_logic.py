import numpy as np
import pytest
from learning_loop_node import DetectorLogic
from learning_loop_node.data_classes import ModelInformation

from benchmarks.support.cards import FIGURES, make_card
from detector.engine.pose_engine import PoseEngine
from detector.errors import InvalidImage, InvalidPackage, RuntimeUnavailable
from detector.models.package import ModelPackage
from detector.pose.skeleton import KEYPOINT_NAMES, category_id
from detector.settings import Settings
from detector.wholebody_logic import WholebodyDetectorLogic, WholebodyLogicFactory


@pytest.fixture(scope='module')
def logic(engine: PoseEngine) -> WholebodyDetectorLogic:
    return WholebodyDetectorLogic(engine)


def test_points_follow_their_box_in_schema_order(logic: WholebodyDetectorLogic) -> None:
    """Box i and points 133·i … belong together; ids, names and model version are the package's."""
    metadata = logic.evaluate(make_card())
    assert len(metadata.box_detections) == len(FIGURES)
    assert [point.category_name for point in metadata.point_detections] == 2 * list(KEYPOINT_NAMES)
    for index, box in enumerate(metadata.box_detections):
        own = metadata.point_detections[133 * index : 133 * (index + 1)]
        assert all(box.x - 1 <= point.x <= box.x + box.width + 1 for point in own)
        assert box.category_id == category_id('person')
        assert own[5].category_id == category_id('left_shoulder')
    assert {point.model_name for point in metadata.point_detections} == {'test-card'}
    assert all(type(box.x) is int and type(box.confidence) is float for box in metadata.box_detections)
    assert all(type(point.x) is float and type(point.confidence) is float for point in metadata.point_detections)


def test_a_batch_gives_as_many_results_in_order(logic: WholebodyDetectorLogic) -> None:
    """Each image keeps its place, an empty one too."""
    blank = np.full((100, 100, 3), 80, dtype=np.uint8)
    batch = logic.batch_evaluate([blank, make_card(FIGURES[:1]), make_card(), blank])
    assert [len(item.box_detections) for item in batch.items] == [0, 1, 2, 0]


def test_other_arrays_are_refused(logic: WholebodyDetectorLogic) -> None:
    """A caller that bypasses the node gets the same check."""
    with pytest.raises(InvalidImage, match='float64'):
        logic.evaluate(np.zeros((100, 100, 3)))


async def test_the_factory_builds_from_an_installed_folder(embedded: ModelPackage) -> None:
    """learning_loop_node calls the factory with the ModelInformation of a folder."""
    factory = WholebodyLogicFactory(Settings())
    assert factory.model_format == 'rtmlib_wholebody'
    information = ModelInformation.load_from_disk(str(embedded.folder))
    assert information is not None
    built: DetectorLogic = await factory.build(information)
    assert len(built.evaluate(make_card()).box_detections) == 2


async def test_the_factory_says_why_it_cannot_build(embedded: ModelPackage, tmp_path: object) -> None:
    """The error names a missing device, or a folder without a package."""
    information = ModelInformation.load_from_disk(str(embedded.folder))
    assert information is not None
    with pytest.raises(RuntimeUnavailable, match='DEVICE=cuda'):
        await WholebodyLogicFactory(Settings(device='cuda')).build(information)
    information.model_root_path = str(tmp_path)
    with pytest.raises(InvalidPackage, match='model.json is missing'):
        await WholebodyLogicFactory(Settings()).build(information)
