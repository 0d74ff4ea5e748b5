"""What this project knows of learning_loop_node's inside; the reason why its version is pinned.

- It reads its settings from the environment, some at import (`GLOBALS.data_folder`), some when a node is made, and
  takes `HOST` and other common names for its own: `apply_settings` writes exactly what our settings say.
- `DetectorNode._detector` is the state of the model, one of three private classes; `active_detector` reads it.
- `DetectorNode._setup_sio_server` registers the Socket.IO events and `include_router` adds the routes, both called
  by its constructor; `WholebodyNode` overrides both, since FastAPI offers no way to replace a route later.
"""

import os
from typing import Any, Final

import httpx
from learning_loop_node.data_classes import ModelInformation
from learning_loop_node.detector.detector_node import DetectorNode, DetectorUnavailableError, _unwrap_detector
from learning_loop_node.detector.outbox import Outbox
from learning_loop_node.enums import OutboxMode
from learning_loop_node.globals import GLOBALS
from learning_loop_node.helpers.misc import ImageData
from learning_loop_node.loop_communication import LoopCommunicator

from .errors import ModelUnavailable, NoLearningLoop
from .settings import Settings
from .wholebody_logic import WholebodyDetectorLogic

_ALIASES: Final = ('HOST', 'ORGANIZATION', 'PROJECT', 'USERNAME', 'PASSWORD')


def apply_settings(settings: Settings) -> None:
    """Make learning_loop_node see these settings and no others; to be called before a node is made."""
    GLOBALS.data_folder = str(settings.data_folder)
    values = {
        'DATA_FOLDER': settings.data_folder,
        'LOOP_HOST': settings.loop_host,
        'LOOP_ORGANIZATION': settings.loop_organization,
        'LOOP_PROJECT': settings.loop_project,
        'LOOP_USERNAME': settings.loop_username,
        'LOOP_PASSWORD': settings.loop_password.get_secret_value(),
        'LOOP_SSL_CERT_PATH': settings.loop_ssl_cert_path,
        'NODE_VERSION': settings.node_version,
        'VERSION_CONTROL_DEFAULT': settings.version_control_default,
        'SYNC_CYCLES': settings.sync_cycles,
        'EXCLUSIVE_MODEL_BUILD': int(settings.exclusive_model_build),
        'SKIP_REPEAT_ON_START': int(settings.skip_repeat_on_start),
        'USE_BACKDOOR_CONTROLS': int(settings.use_backdoor_controls),
        'MAX_OUTBOX_SIZE': settings.max_outbox_size,
        'MIN_UNCERTAIN_THRESHOLD': settings.min_uncertain_threshold,
        'MAX_UNCERTAIN_THRESHOLD': settings.max_uncertain_threshold,
    }
    for name in (*_ALIASES, *values):
        os.environ.pop(name, None)
    os.environ.update({name: str(value) for name, value in values.items() if value is not None})


def active_detector(node: DetectorNode) -> tuple[WholebodyDetectorLogic, ModelInformation]:
    """The logic and the model that serve now.

    :raises ModelUnavailable: none does.
    """
    try:
        active = _unwrap_detector(node._detector)
    except DetectorUnavailableError as error:
        raise ModelUnavailable(f'no model serves: {error}') from None
    assert isinstance(active.logic, WholebodyDetectorLogic)
    return active.logic, active.model_info


class NoLoopCommunicator(LoopCommunicator):
    """Stands where the Loop's client would, and never opens a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.async_client = httpx.AsyncClient(base_url='http://no-loop.invalid', transport=_Refusing())


class _Refusing(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise NoLearningLoop('This')


class NoOutbox(Outbox):
    """The outbox of a node without a Loop: nothing is stored, nothing is sent."""

    async def save(self, image: ImageData, image_metadata: Any = None, upload_priority: bool = False) -> None:
        raise NoLearningLoop('The outbox')

    async def set_mode(self, mode: OutboxMode | str) -> None:
        if OutboxMode(mode) == OutboxMode.CONTINUOUS_UPLOAD:
            raise ValueError(str(NoLearningLoop('An upload')))
