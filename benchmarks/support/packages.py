"""Valid and invalid model packages."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import file_sha256
from detector.models.packing import Identity
from mock.test_card.build import build_package

Files = dict[str, bytes]


def make_package(path: Path, version: str = '1.0', name: str = 'test-card') -> Path:
    """Make a valid package with the networks of the test card."""
    build_package(path, identity=Identity(version=version), name=name)
    return path


def embedded_files() -> Files:
    with zipfile.ZipFile(EMBEDDED_PACKAGE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Make a copy of the embedded package with a changed model.json."""
    files = embedded_files()
    description = json.loads(files['model.json'])
    change(description)
    return write_zip(path, files | {'model.json': json.dumps(description).encode()})


def with_network(path: Path, role: str, network: Path) -> Path:
    """Make a copy of the embedded package with another network and its hash."""
    name = {'detector': 'det.onnx', 'estimator': 'pose.onnx'}[role]

    def change(description: dict[str, Any]) -> None:
        description['wholebody'][role]['sha256'] = file_sha256(network)

    altered(path, change)
    with zipfile.ZipFile(path) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    return write_zip(path, files | {name: network.read_bytes()})


def constant_network(path: Path, outputs: dict[str, np.ndarray[Any, Any]], size: tuple[int, int]) -> Path:
    """Make a network with constant outputs.

    :param size: width and height of its input.
    """
    nodes, constants, infos = [], [], []
    constants.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), 'nothing'))
    nodes.append(helper.make_node('ReduceMax', ['input'], ['peak'], axes=[0, 1, 2, 3], keepdims=0))
    nodes.append(helper.make_node('Mul', ['peak', 'nothing'], ['zero']))
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(value.astype(np.float32), f'{name}_value'))
        nodes.append(helper.make_node('Add', [f'{name}_value', 'zero'], [name]))
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    source = helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, size[1], size[0]])
    graph = helper.make_graph(nodes, 'constant', [source], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)])
    model.ir_version = 6
    onnx.save(model, path)
    return path


def hostile_network(path: Path, *, grows: bool) -> Path:
    """Make a pose network of the embedded package's form whose loop never ends.

    :param grows: True if each round doubles its memory; False if only the time passes.
    """
    shape = None if grows else [1]
    infos = [
        helper.make_tensor_value_info('round', TensorProto.INT64, []),
        helper.make_tensor_value_info('go_on', TensorProto.BOOL, []),
        helper.make_tensor_value_info('value', TensorProto.FLOAT, shape),
    ]
    operator = helper.make_node('Concat', ['value', 'value'], ['next'], axis=0)
    if not grows:
        operator = helper.make_node('Add', ['value', 'value'], ['next'])
    results = [
        helper.make_tensor_value_info('goes_on', TensorProto.BOOL, []),
        helper.make_tensor_value_info('next', TensorProto.FLOAT, shape),
    ]
    body = helper.make_graph([helper.make_node('Identity', ['go_on'], ['goes_on']), operator], 'body', infos, results)
    sizes = {'simcc_x': (1, 133, 384), 'simcc_y': (1, 133, 512)}
    constants = [
        numpy_helper.from_array(np.array(True), 'always'),
        numpy_helper.from_array(np.zeros(1, dtype=np.float32), 'nothing'),
        *(numpy_helper.from_array(np.zeros(size, dtype=np.float32), f'{name}_0') for name, size in sizes.items()),
    ]
    nodes = [
        helper.make_node('ReduceMax', ['input'], ['peak'], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node('Mul', ['peak', 'nothing'], ['zero']),
        helper.make_node('Loop', ['', 'always', 'zero'], ['last'], body=body),
        helper.make_node('ReduceMax', ['last'], ['result'], axes=[0], keepdims=0),
        *(helper.make_node('Add', [f'{name}_0', 'result'], [name]) for name in sizes),
    ]
    source = helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, 256, 192])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    graph = helper.make_graph(nodes, 'hostile', [source], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)])
    model.ir_version = 6
    onnx.save(model, path)
    return path
