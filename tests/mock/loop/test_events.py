"""The mock Loop's Socket.IO events."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from learning_loop_node.annotation.annotator_logic import AnnotatorLogic
from learning_loop_node.annotation.annotator_node import AnnotatorNode

from benchmarks.support.loops import MockLoopProcess


class _Tool(AnnotatorLogic):
    logged_out: str | None = None

    async def handle_user_input(self, user_input: Any, history: Any) -> Any:
        raise NotImplementedError

    def create_empty_history(self) -> dict[str, Any]:
        return {}

    def logout_user(self, sid: str) -> bool:
        self.logged_out = sid
        return True


async def test_upstreams_nodes_connect_by_socketio(as_node: None, loop: MockLoopProcess) -> None:
    """A real annotator logs in, connects and reports; it receives and answers the events that a test sends."""
    tool = _Tool()
    node = AnnotatorNode('annotator', tool, uuid=str(uuid4()))
    await node.reconnect_to_loop()
    try:
        await node.send_status()
        assert not node.socket_connection_broken
        found = (await asyncio.to_thread(loop.http.get, '/mock/nodes')).json()['nodes']
        assert [(entry['node_type'], entry['project'], entry['status']['name']) for entry in found] == [
            ('annotation_node', 'wholebody', 'annotator')
        ]
        sent = {'arguments': ['user'], 'node_type': 'annotation_node'}
        answer = await asyncio.to_thread(loop.http.post, '/mock/nodes/user_logout', json=sent)
        assert answer.json()['answers'][0]['answer']['success'] is True
        assert tool.logged_out == 'user'

        assert node.sio_client is not None
        training = ('zauberzeug', 'wholebody', {'trainer_id': 't', 'best_epoch': 3})
        assert (await node.sio_client.call('update_training', training))['success'] is True
        assert (await node.sio_client.call('update_training', ('no', 'such', {})))['success'] is False
        assert (await node.sio_client.call('update_trainer', {'id': 't', 'name': 'trainer'}))['success'] is True
        shape = ('zauberzeug', 'wholebody', {'id': 'a', 'shape': {'points': []}})
        assert (await node.sio_client.call('update_segmentation_annotation', shape))['success'] is True
    finally:
        await node._on_shutdown()
    assert loop.http.get(f'{loop.api}/trainings').json()['trainings'][0]['best_epoch'] == 3


async def test_socketio_needs_the_cookie(as_node: None, loop: MockLoopProcess) -> None:
    """A node without a login is refused."""
    node = AnnotatorNode('annotator', _Tool(), uuid=str(uuid4()))
    node.needs_login = False
    with pytest.raises(Exception, match='Could not connect'):
        await node.reconnect_to_loop()
    await node._on_shutdown()
