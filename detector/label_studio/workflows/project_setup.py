"""Set up a project: labeling config, sampling, and the node as its ML backend."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from xml.etree.ElementTree import ParseError, canonicalize

import httpx
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from detector.errors import InvalidRequest, LabelStudioFault, WholebodyError
from detector.label_studio.labels.config import parse
from detector.label_studio.server.addresses import base_url
from detector.label_studio.server.client import Connection
from detector.label_studio.server.project import UNCERTAINTY_SAMPLING, Json, Project, with_address
from detector.label_studio.server.project_lookup import titled
from detector.wording import counted

Sampling = Literal['uncertainty', 'sequential', 'uniform']
Say = Callable[[str], None]
Confirm = Callable[[str], bool]

_SAMPLING: Final = {
    'uncertainty': UNCERTAINTY_SAMPLING,
    'sequential': 'Sequential sampling',
    'uniform': 'Uniform sampling',
}
_MEANINGFUL: Final = (
    'name', 'toName', 'value', 'alias', 'model_index', 'predicted_values', 'category', 'skeleton', 'curves',
    'perRegion',
)  # fmt: skip
"""Attributes of a labeling config that annotations and exports depend on; others only affect the editor."""
_UNDECIDED: Final = '$undefined$'
"""Field of a task's data that holds the file uploaded before there was a labeling config; it fits any config."""
_UNNAMED: Final = 'wholebody'
"""Title of a backend until Label Studio has its model version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node to be connected as the backend of a project.

    :param url: address of the node as Label Studio reaches it.
    :param user: user name for its basic auth; None: the node has none.
    :raises InvalidRequest: the address is invalid.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if base_url(self.url) is None:
            raise InvalidRequest(
                '--node: give an address like http://localhost:8004; user name and password belong in '
                'BASIC_AUTH_USER and BASIC_AUTH_PASS'
            )
        object.__setattr__(self, 'url', self.url.rstrip('/'))

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the node requires of the webhook."""
        if self.user is None:
            return {}
        return {'Authorization': f'Basic {base64.b64encode(f"{self.user}:{self.password}".encode()).decode()}'}


async def set_up(
    connection: Connection,
    *,
    label_config: str,
    title: str = 'Whole-body pose',
    project: Project | None = None,
    sampling: Sampling | None = None,
    node: Node | None = None,
    replace: Confirm | None = None,
    say: Say = lambda _: None,
    warn: Say = lambda _: None,
) -> Project:
    """Create a project, or connect an existing one. A second call with the same arguments changes nothing.

    A project that this call has created is deleted again if it cannot be set up.

    :param label_config: labeling config of a new project, of one that has none, or with `replace`.
    :param title: title of the project to create or to connect.
    :param project: connect this project instead, whatever its title.
    :param sampling: None: uncertainty sampling for a new project, no change of an existing one.
    :param node: node to connect; None: leave the backend unchanged.
    :param replace: called with what another labeling config would lose; returns True to replace the config of an
        existing project. None: the config stays.
    :param say: called with each change once it is made.
    :param warn: called with possible faults that are left unchanged.
    :raises InvalidRequest: the config offers no control for a pose; several projects have the title; Label Studio
        cannot or may not contact the node, or the node refuses it; the node has no active model.
    :raises LabelStudioFault: see `Connection.request`.
    """
    parse(label_config)
    found = project or await titled(connection, title)
    if found is not None:
        change = await _config_change(found, label_config, replace)
        await _attach(found, node, say, warn)
        if change is not None:
            await found.change(label_config=label_config)
            say(change)
        if sampling is not None and (await found.settings()).get('sampling') != _SAMPLING[sampling]:
            await found.change(sampling=_SAMPLING[sampling])
            say(f'sampling is {sampling}')
        return found
    fields = {'label_config': label_config, 'sampling': _SAMPLING[sampling or 'uncertainty']}
    found = await Project.create(connection, title=title, **fields)
    say(f'project {found.id} "{title}" is created')
    try:
        await _attach(found, node, say, warn)
    except BaseException:
        await _undo(found, say, warn)
        raise
    return found


async def _undo(project: Project, say: Say, warn: Say) -> None:
    try:
        await project.delete()
        say(f'project {project.id} is deleted again, since it could not be set up')
    except WholebodyError as error:
        warn(f'project {project.id} could not be set up, and it stays incomplete: {error}')


async def _attach(project: Project, node: Node | None, say: Say, warn: Say) -> None:
    """Connect the node, and let the project show the predictions of its model."""
    if node is None:
        return
    version = await _connect(project, node, say, warn)
    await _authorize_webhook(project, node, say)
    shown = (await project.settings()).get('model_version')
    if shown == version:
        return
    if shown and shown in await project.model_versions():
        warn(
            f'the project keeps showing the predictions of "{shown}"; to show those of the node, choose "{version}" in '
            'the settings of the project (Annotation, Live Predictions)'
        )
        return
    await project.change(model_version=version)
    say(f'the model version of the project is "{version}"')


async def _config_change(project: Project, label_config: str, replace: Confirm | None) -> str | None:
    """Return what to say about a change of the labeling config; None if the config stays.

    A project without a labeling config gets one. Another config is replaced only if `replace` allows it.
    """
    settings = await project.settings()
    current = str(settings.get('label_config') or '')
    if canonical(current) == canonical(label_config):
        return None
    change = 'the labeling config is changed'
    if not meaning(current):
        change = 'the labeling config is set'
    elif replace is None:
        _require_poses(project, current)
        return None
    elif meaning(current) == meaning(label_config):
        change = 'the appearance of the labeling config is changed'
    elif not replace(await _losses(project, settings, label_config)):
        raise InvalidRequest(f'project {project.id} keeps its labeling config; nothing is changed')
    await _require_images(project, parse(label_config).image_key)
    return change


def _require_poses(project: Project, label_config: str) -> None:
    """:raises InvalidRequest: the config offers no control for a pose."""
    try:
        parse(label_config)
    except InvalidRequest as error:
        raise InvalidRequest(
            f'project {project.id} has a labeling config of another kind: {error}; nothing is changed: give a --title '
            'of a new project, or replace the config with --replace-config'
        ) from None


async def _losses(project: Project, settings: Json, label_config: str) -> str:
    """Return what would no longer fit if the project had another labeling config."""
    counts = [
        counted(int(settings.get('total_annotations_number') or 0), 'annotation'),
        f'{counted(len(await project.drafted()), "task")} with drafts',
        counted(sum((await project.model_versions()).values()), 'prediction'),
    ]
    gone = meaning(str(settings.get('label_config'))) - meaning(label_config)
    controls = ', '.join(sorted({control for control, *_ in gone}))
    return (
        f'project {project.id} "{settings.get("title")}" holds {counts[0]}, {counts[1]} and {counts[2]}; the other '
        f'labeling config lacks or changes {counted(len(gone), "control or label")} of the present one ({controls}), '
        'and regions with these no longer show'
    )


async def _require_images(project: Project, key: str) -> None:
    """:raises InvalidRequest: the tasks have their images in another field, so they could no longer be opened."""
    async for task in project.tasks():
        names = list(task.get('data') or {})
        if key not in names and _UNDECIDED not in names:
            raise InvalidRequest(
                f'the tasks of project {project.id} hold {", ".join(map(repr, names[:10]))} and no {key!r}, which the '
                'labeling config shows; nothing is changed: give a --config that shows what they hold'
            )
        return


def meaning(label_config: str) -> frozenset[tuple[str, ...]]:
    """Return what annotations and exports depend on: controls, their targets and labels, without looks or order."""
    try:
        root = fromstring(label_config, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return frozenset({(label_config,)})
    found = set()
    for control in root.iter():
        if 'name' in control.attrib:
            name = control.attrib['name']
            labels = [label for label in control.iter() if 'value' in label.attrib and 'name' not in label.attrib]
            found |= {(name, part.tag, *(part.get(key, '') for key in _MEANINGFUL)) for part in (control, *labels)}
    return frozenset(found)


def canonical(label_config: str) -> str:
    """Normalise the order of attributes and white space of a labeling config."""
    return canonicalize(label_config, strip_text=True) if label_config.strip() else ''


async def _connect(project: Project, node: Node, say: Say, warn: Say) -> str:
    """Connect the node under the title by which uncertainty sampling finds its predictions.

    :return: the model version that the node told Label Studio; this process may not be able to reach the node.
    """
    backends = await project.backends()
    own = with_address(backends, node.url)
    backend = own[0] if own else None
    if backend is None or not _is_connected(backend, node):
        backend = await _save(project, node, title=_UNNAMED if backend is None else str(backend['title']))
        say(f'the backend {node.url} is connected')
    version = backend.get('model_version')
    if not version:
        if not own:
            await project.delete_backend(int(backend['id']))
        raise InvalidRequest(
            f'{node.url} has no active model (yet); {node.url}/ready states the reason; try again when it is ready'
        )
    if backend.get('title') != version:
        await _save(project, node, title=version)
        say(f'the title of the backend is its model version, "{version}"')
    for other in backends:
        if other not in own:
            warn(f'there is another backend, {_public(other.get("url"))}; Label Studio uses the first one only')
    return str(version)


def _is_connected(backend: Json, node: Node) -> bool:
    """Return True if Label Studio has just reached the backend with the given credentials."""
    method = 'NONE' if node.user is None else 'BASIC_AUTH'
    same_user = node.user is None or backend.get('basic_auth_user') == node.user
    return backend.get('state') == 'CO' and backend.get('auth_method') == method and same_user


async def _save(project: Project, node: Node, *, title: str) -> Json:
    try:
        return await project.save_backend(url=node.url, title=title, user=node.user, password=node.password)
    except (InvalidRequest, LabelStudioFault) as error:
        raise _with_remedy(error, node.url) from None


def _with_remedy(error: WholebodyError, url: str) -> WholebodyError:
    """Return an error that says what to change if Label Studio's message does not."""
    text = str(error)
    if 'reserved network address' in text:
        return LabelStudioFault(
            f'Label Studio may not contact {url}, an address in a private network: start it with '
            'USE_DEFAULT_BANNED_SUBNETS=false, or with both ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false'
        )
    if 'authentication parameters' in text or ('valid ML backend' in text and '401' in text):
        return InvalidRequest(
            f'{url} refuses Label Studio: set BASIC_AUTH_USER and BASIC_AUTH_PASS, or API_TOKEN, to those of the node'
        )
    if 'health check failed' in text:
        return InvalidRequest(
            f'Label Studio does not reach {url}: does the node run (wholebody serve), and is this its address as '
            'Label Studio sees it (--node)?'
        )
    if 'valid ML backend' in text:
        return InvalidRequest(f'according to Label Studio, {url} is not a node (--node): {text}')
    return error


async def _authorize_webhook(project: Project, node: Node, say: Say) -> None:
    """Keep one webhook with the credentials of the node; Label Studio creates one without them beside the backend."""
    url = f'{node.url}/webhook'
    webhooks = with_address(await project.webhooks(), url)
    if not webhooks:
        await project.save_webhook(url=url, headers=node.headers)
        say('the webhook is created')
        return
    first, *others = webhooks
    headers: dict[str, Any] = first.get('headers') or {}
    wanted = {name: value for name, value in headers.items() if name.lower() != 'authorization'} | node.headers
    if wanted != headers:
        await project.change_webhook(first, headers=wanted)
        say(f'the webhook has {"the credentials of the node" if node.headers else "no credentials anymore"}')
    for other in others:
        await project.delete_webhook(int(other['id']))
        say('a second webhook with the same address is deleted')


def _public(url: object) -> str:
    """Return an address without the user name and password, which Label Studio shows in clear text."""
    try:
        return str(httpx.URL(str(url)).copy_with(userinfo=b''))
    except httpx.InvalidURL:
        return 'at an invalid address'
