"""What this project knows of learning_loop_node's inside; the reason why its version is pinned.

- It reads its settings from the environment, some at import (`GLOBALS.data_folder`), some when a node is made, and
  takes `HOST` and other common names for its own: `apply_settings` writes exactly what our settings say.
- `DetectorNode._detector` is the state of the model, one of three private classes; `active_detector` reads it,
  `serve_with`, `unload` and `serve_nothing` change it. Its own way of updating (`_update_model`, which ends the process
  after two failures, and what that calls) is never entered: `WholebodyNode.on_repeat` takes its place.
- `read_or_create_uuid` fails for ever on a truncated file; `node_id` does not.
- `DetectorNode._setup_sio_server` registers the Socket.IO events and `include_router` adds the routes, both called
  by its constructor; `WholebodyNode` overrides both, since FastAPI offers no way to replace a route later.
"""

import gc
import json
import os
import uuid
from pathlib import Path
from typing import Final

from learning_loop_node.data_classes import ModelInformation
from learning_loop_node.detector.detector_node import (
    DetectorNode,
    DetectorUnavailableError,
    _ActiveDetector,
    _Initializing,
    _unwrap_detector,
    _Updating,
)
from learning_loop_node.globals import GLOBALS

from detector.errors import ModelUnavailable
from detector.settings import Settings
from detector.wholebody_logic import WholebodyDetectorLogic

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


def serve_with(node: DetectorNode, logic: WholebodyDetectorLogic, model_info: ModelInformation) -> None:
    """Let a logic serve from now on."""
    node._detector = _ActiveDetector(logic, model_info)


def unload(node: DetectorNode, version: str) -> None:
    """Let nothing serve until the model of a version is ready, so that the old one's memory is free for it."""
    node._detector = _Updating(version=version)
    gc.collect()


def serve_nothing(node: DetectorNode) -> None:
    """Say that no model is there."""
    node._detector = _Initializing()


def node_id(data_folder: Path, name: str) -> str:
    """The node's id in upstream's file `uuids.json`; a file that cannot be read is set aside and begun anew."""
    path = data_folder / 'uuids.json'
    key = name.lower().replace(' ', '_')
    try:
        known = json.loads(path.read_bytes())
        if isinstance(known.get(key), str):
            return str(known[key])
    except FileNotFoundError:
        known = {}
    except (ValueError, AttributeError):
        path.replace(path.with_suffix('.broken'))
        known = {}
    known[key] = str(uuid.uuid4())
    partial = path.with_suffix('.partial')
    partial.write_text(json.dumps(known))
    partial.replace(path)
    return str(known[key])
