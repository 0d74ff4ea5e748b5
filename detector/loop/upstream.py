"""Private details of learning_loop_node that this project depends on. They are the reason why its version is pinned.

- Settings: it reads them from the environment, some at import (`GLOBALS.data_folder`), some when a node is made, and
  takes `HOST` and other common names for its own. `apply_settings` writes exactly what our settings say.
- Model: `DetectorNode._detector` holds it, as one of three private classes. `ModelServing` owns our model, and
  `mirror_model` copies it there. Upstream's own update (`_update_model`, which ends the process after two failures) is
  never entered, because `WholebodyNode.on_repeat` replaces it; so `_repeat_cycles_to_next_sync` stays unused.
- Targets and errors: `target_model`, `loop_deployment_target`, `version_control`, `operation_mode` and `status` are
  public, but only upstream's status report and its route `/operation_mode` read them. `mirror_state` copies ours there.
- Status report: `DetectorNode._sync_status_with_loop` posts it, without a time limit. `send_status` adds one.
- Muting: `PUT /socketio` sets `Node._skip_repeat_loop`, which stops the cycle. `is_muted` reads it for the outbox.
- Id: `read_or_create_uuid` fails for ever on a truncated file. `node_id` does not.
- Hooks: the constructor of DetectorNode calls `init_loop_communicator`, `include_router` and `_setup_sio_server`.
  `WholebodyNode` overrides them, since FastAPI cannot replace a route later.
- Client of the Loop: `LoopCommunicator` reads the environment and makes an httpx client, which fails for some forms of
  the proxy variables. `Communicator` sets the same attributes from our settings instead.
- Clients: `connected_clients` lists the Socket.IO clients. Our Socket.IO server keeps it, for the metrics.
"""

import asyncio
import logging
import os
import uuid
from pathlib import Path
from typing import Final, Protocol

from learning_loop_node import DetectorLogic
from learning_loop_node.data_classes import ModelInformation
from learning_loop_node.detector.detector_node import (
    DetectorNode,
    _ActiveDetector,
    _Initializing,
)
from learning_loop_node.enums import OperationMode, VersionMode
from learning_loop_node.globals import GLOBALS

from detector.errors import InvalidSettings
from detector.settings import Settings
from detector.system.json_file import read_object, write_object

from .model_updates import Target

log = logging.getLogger('wholebody.node')

_STATUS_SECONDS: Final = 8
"""Time limit for the Loop to accept a status report, in seconds."""
_ALIASES: Final = ('HOST', 'ORGANIZATION', 'PROJECT', 'USERNAME', 'PASSWORD')


def apply_settings(settings: Settings) -> None:
    """Make learning_loop_node see exactly these settings; call this before a node is made."""
    GLOBALS.data_folder = str(settings.data_folder)
    values = {
        'DATA_FOLDER': settings.data_folder,
        'LOOP_HOST': settings.loop_host,
        'LOOP_ORGANIZATION': settings.loop_organization,
        'LOOP_PROJECT': settings.loop_project,
        'LOOP_USERNAME': settings.loop_username,
        'LOOP_PASSWORD': settings.loop_password.get_secret_value(),
        'LOOP_SSL_CERT_PATH': None,  # ours build their own contexts; upstream's way is deprecated in httpx
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


class State(Protocol):
    """State that `mirror_state` copies; `Following` has it."""

    operation_mode: OperationMode
    version_control: VersionMode
    target: Target | None
    loop_target: Target | None
    errors: dict[str, str]


def mirror_state(node: DetectorNode, state: State) -> None:
    """Copy targets, modes and errors to where upstream reads them."""
    node.operation_mode = state.operation_mode
    node.version_control = state.version_control
    node.target_model = _information(node, state.target)
    node.loop_deployment_target = _information(node, state.loop_target)
    node.status.errors = dict(state.errors)


def _information(node: DetectorNode, target: Target | None) -> ModelInformation | None:
    if target is None:
        return None
    return ModelInformation(
        id=target.model_id, host='', organization=node.organization, project=node.project, version=target.version
    )


def mirror_model(node: DetectorNode, logic: DetectorLogic | None, model_info: ModelInformation | None) -> None:
    """Copy the active model to the attribute that upstream reads; None: no model is loaded."""
    if logic is None or model_info is None:
        node._detector = _Initializing()
    else:
        node._detector = _ActiveDetector(logic, model_info)


async def send_status(node: DetectorNode) -> None:
    """Post the status report to the Loop; a failure is logged."""
    try:
        async with asyncio.timeout(_STATUS_SECONDS):
            await node._sync_status_with_loop()
    except TimeoutError:
        log.warning('the Learning Loop did not accept a status report within %d seconds', _STATUS_SECONDS)


def is_muted(node: DetectorNode) -> bool:
    """Return True while `PUT /socketio` or SKIP_REPEAT_ON_START has stopped the traffic to the Loop."""
    return node._skip_repeat_loop


def make_way_for_outbox(data_folder: Path) -> None:
    """Set aside what stands in place of the outbox's folders: upstream's constructor creates them, and would fail.

    :raises InvalidSettings: it cannot be moved.
    """
    outbox = data_folder / 'outbox'
    for path in (outbox, outbox / 'normal', outbox / 'priority'):
        if os.path.lexists(path) and not path.is_dir():
            try:
                aside = path.replace(path.with_name(f'{path.name}.broken'))
            except OSError as error:
                raise InvalidSettings(f'{path} is not a folder and cannot be moved: {error.strerror}') from None
            log.warning('%s was not a folder and is now called %s', path, aside.name)


def node_id(data_folder: Path, name: str) -> str:
    """Return the node's id from upstream's file `uuids.json`; an unreadable file is set aside and replaced.

    If the file cannot be written, the id is that of this process, and the log says so.
    """
    path = data_folder / 'uuids.json'
    key = name.lower().replace(' ', '_')
    known = read_object(path)
    found = (known or {}).get(key)
    if isinstance(found, str) and found:
        return found
    fresh = str(uuid.uuid4())
    try:
        if known is None and os.path.lexists(path):
            aside = path.replace(path.with_suffix('.broken'))
            log.warning('%s cannot be read and is now called %s; this node gets a new id', path, aside.name)
        write_object(path, (known or {}) | {key: fresh})
    except OSError as error:
        log.warning('%s cannot be written (%s): this node has another id at its next start', path, error.strerror)
    return fresh
