"""Checks of the training that need PyTorch. They run in another environment: `python -m … NAME FOLDER`."""

import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from torch import nn

from training.blocks import GROUPS, BlockRun
from training.calibration import Calibration
from training.examples import BOXES, PICTURE, SCORES, WEIGHTS, Examples, stacked
from training.export import export
from training.grid import SIZE, cells, decoded
from training.losses import FeatureLoss, RowLoss, generalized_iou
from training.network import PLACES, PersonDetector, activated_layers
from training.optimizer import Orthogonal, optimizers, orthogonalised
from training.photographs import Collection, Photograph
from training.run import Recipe, Run, averaged, opened


def teacher(folder: Path) -> None:
    """Write a teacher: the network itself, not trained."""
    torch.manual_seed(1)
    network = PersonDetector()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network(torch.rand(4, 3, SIZE, SIZE) * 255)  # the features vary as those of a trained network do
    export(network.eval(), folder / 'teacher.onnx', Calibration())


def exported(folder: Path) -> None:
    """The trained network is not the one that the run began with, and the exported file answers as it does."""
    network = averaged(folder)
    torch.manual_seed(0)
    begun = PersonDetector().state_dict()
    assert any(not torch.equal(begun[name], value) for name, value in network.state_dict().items() if 'weight' in name)
    picture = torch.rand(1, 3, SIZE, SIZE) * 255
    calibration = Calibration(slope=2.0, shift=0.5)
    export(network, folder / 'again.onnx', calibration)
    with torch.no_grad():
        rows = network(picture).numpy()
    session = onnxruntime.InferenceSession(folder / 'again.onnx', providers=['CPUExecutionProvider'])
    (answer,) = session.run(None, {'images': picture.numpy()})
    assert answer.shape == (1, 3549, 6)
    np.testing.assert_allclose(decoded(answer), decoded(rows), atol=2, rtol=1e-2)
    score = 1 / (1 + np.exp(-rows[..., 4])) / (1 + np.exp(-rows[..., 5]))
    expected = 1 / (1 + np.exp(-(2 * np.log(score / (1 - score)) + 0.5)))
    np.testing.assert_allclose(answer[..., 4], expected, atol=2e-2)
    assert (answer[..., 5] == 1).all()


def losses(_: Path) -> None:
    """The losses are 0 for the teacher's own answer and grow with the distance."""
    taught = torch.randn(2, 8, 16, 16) * 3 + 1
    feature_loss = FeatureLoss()
    assert feature_loss('place', taught, taught).item() == 0
    mean = taught.mean((0, 2, 3), keepdim=True).expand_as(taught)
    assert abs(feature_loss('place', mean, taught).item() - 1) < 0.05
    weights = torch.zeros(2, 1, 16, 16)
    weights[:, :, :8] = 1
    half = torch.cat([taught[:, :, :8], mean[:, :, 8:]], 2)
    assert feature_loss('place', half, taught, weights).item() == 0
    box = torch.tensor([[10.0, 10, 30, 50]])
    assert generalized_iou(box, box).item() == 1
    assert generalized_iou(box, box + 100).item() < 0
    loss, count = RowLoss(), len(cells()[0])
    rows = torch.zeros(1, count, 6)
    rows[..., 4] = -10
    rows[..., 5] = 10
    scores = torch.zeros(1, count)
    boxes = loss.decoded(rows)
    assert all(value.item() < 1e-3 for value in loss(rows, boxes, scores))
    scores[0, 100] = rows[0, 100, 4] = 1
    near, far = loss(rows, boxes, scores), loss(rows, boxes + 20, scores)
    assert abs(near[1].item()) < 1e-5 < far[1].item()
    rows[0, 200, 4] = 5
    assert loss(rows, boxes, scores)[0] > near[0]


def optimizer(_: Path) -> None:
    """Orthogonalised matrices have singular values about 1; the optimisers share the parameters and lower a loss."""
    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, 24, 40)))
    assert 0.5 < values.min() < values.max() < 1.5
    network = PersonDetector()
    both = optimizers(network, 0.02, 1e-3)
    counted = [id(one) for each in both for one in each.param_groups[0]['params']]
    assert sorted(counted) == sorted(id(one) for one in network.parameters())
    layer, wanted = nn.Linear(16, 8, bias=False), torch.randn(8, 16)
    before = (layer.weight - wanted).norm()
    moving = Orthogonal([layer.weight], 0.05)
    for _step in range(50):
        layer.zero_grad()
        (layer.weight - wanted).square().sum().backward()
        moving.step()
    assert (layer.weight - wanted).norm() < 0.8 * before


def blocks(_: Path) -> None:
    """The groups share out all blocks; on the whole network's features, each answers as the whole network does."""
    torch.manual_seed(0)
    network = PersonDetector().eval()
    grouped = [id(one) for group in GROUPS.values() for one in group.of(network).parameters()]
    assert sorted(grouped) == sorted(id(one) for one in network.parameters())
    picture = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        rows, features = network.features(picture[None].float())
    example = {place: one[0] for place, one in features.items()} | {PICTURE: picture}
    example |= {BOXES: rows[0, :, :4], SCORES: rows[0, :, 4], WEIGHTS: torch.ones(1, 104, 104)}
    for group in GROUPS.values():
        given = stacked([group.part_of(example)])
        network.zero_grad()
        own, own_rows = group.answer(network, given)
        for place, one in own.items():
            assert torch.allclose(one, given[place], atol=1e-4), place
        if own_rows is not None:
            assert torch.allclose(own_rows, rows[:, group.cells], atol=1e-4)
        torch.stack([one.sum() for one in own.values()]).sum().backward()
        moved = {id(one) for one in network.parameters() if one.grad is not None and one.grad.any()}
        assert moved <= {id(one) for one in group.of(network).parameters()}
    assert set(PLACES.values()) <= set(activated_layers())
    assert {place for group in GROUPS.values() for place in group.places} == set(PLACES)


def phases(folder: Path) -> None:
    """Steps of groups and of the whole network lower the losses; the statistics of normalisations stay in the whole."""
    teacher(folder)
    cv2.imwrite(str(folder / 'a.png'), np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    collection = Collection(
        by_source={'coco': [Photograph(path=folder / 'a.png', name='a.png', boxes=np.array([[0, 0, 1, 1, 1]]))]},
        shares={'coco': 1.0},
    )
    assert collection.training()
    taught = opened(folder / 'teacher.onnx')
    examples = Examples(collection, taught, [0])
    for name, group in GROUPS.items():
        run = BlockRun(group, (0.05, 0.005))
        batch = stacked([group.part_of(examples.draw(0.0)) for _ in range(2)])
        first, *_, last = [sum(run.step(batch, 0.1).values()) for _ in range(8)]
        assert last < 0.99 * first, name
        run.train(folder / f'{name}.pt', 0.0, collection, taught)  # its time is over: writes the checkpoint
    whole = Run(collection, folder / 'teacher.onnx', folder, Recipe(matrix_rate=1.0, rate=0.1))
    before = {name: one.clone() for name, one in whole.network.state_dict().items()}
    batch = stacked([examples.draw(0.0) for _ in range(2)])
    first, *_, last = [sum(whole.step(batch, 0.1).values()) for _ in range(8)]
    assert last < 0.99 * first
    moved = {name for name, one in whole.network.state_dict().items() if not torch.equal(one, before[name])}
    assert {name.split('.')[0] for name in moved} == {'stem', 'dark2', 'dark3', 'dark4', 'dark5', 'neck', 'heads'}
    assert not any('running' in name for name in moved)


if __name__ == '__main__':
    torch.set_num_threads(1)  # several threads wait for each other on a busy machine
    globals()[sys.argv[1]](Path(sys.argv[2]))
