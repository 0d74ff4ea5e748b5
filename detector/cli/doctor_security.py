"""`wholebody doctor --security`: check which interfaces are open to whom, and name the remedy.

A check fails if others can use the node or its data. It warns if the setting is right for some installations only.
"""

import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import httpx
from dotenv import dotenv_values

from detector.api.route_policy import OPEN_PATHS
from detector.settings import Settings, secret_names

from .doctor import Check

_MIN_TOKEN: Final = 16
"""Minimum length of API_TOKEN in characters; a shorter token can be guessed."""
_MIN_PASSWORD: Final = 8
"""Minimum length of BASIC_AUTH_PASS in characters; a shorter password can be guessed."""


def examine(settings: Settings) -> Iterator[Check]:
    """Check settings and files, without connecting to anything or changing anything, and yield the results."""
    reachable = not _is_loopback(settings.node_host)
    yield _address(settings, reachable)
    yield _token(settings, reachable)
    yield _label_studio_routes(settings, reachable)
    yield _origins(settings)
    yield _backdoor(settings)
    yield _image_hosts(settings)
    yield _outgoing('Learning Loop', 'LOOP_HOST', settings.loop_url, bool(settings.loop_password.get_secret_value()))
    studio_token = settings.label_studio_api_token is not None
    yield _outgoing('Label Studio', 'LABEL_STUDIO_URL', settings.label_studio_url, studio_token)
    yield _data_folder(settings.data_folder)
    yield _dotenv(Path('.env'))
    yield _user()
    yield _log(settings)


def _address(settings: Settings, reachable: bool) -> Check:
    where = f'NODE_HOST={settings.node_host}, port {settings.backend_port}'
    if not reachable:
        return Check('address', 'ok', f'{where}: this machine only')
    remedy = (
        'set NODE_HOST=127.0.0.1 if all clients run on this machine; else use a proxy with TLS or a trusted network'
    )
    return Check(
        'address', 'warning', f'{where}, plain http: open to the network, which can also read the images; {remedy}'
    )


def _token(settings: Settings, reachable: bool) -> Check:
    if settings.api_token is None:
        state: Literal['warning', 'failed'] = 'failed' if reachable else 'warning'
        who = 'every client in the network' if reachable else 'every program on this machine'
        return Check(
            'API_TOKEN',
            state,
            f'not set: {who} can detect, read the outbox and switch models; `openssl rand -hex 24` makes a token',
        )
    length = len(settings.api_token.get_secret_value())
    if length < _MIN_TOKEN:
        return Check(
            'API_TOKEN', 'failed', f'{length} characters can be guessed; `openssl rand -hex 24` makes a better token'
        )
    open_paths = ', '.join(sorted(OPEN_PATHS))
    return Check(
        'API_TOKEN',
        'ok',
        f'required for images and for changes; open to read without it: {open_paths}',
    )


def _label_studio_routes(settings: Settings, reachable: bool) -> Check:
    name = 'Label Studio routes'
    if settings.basic_auth_pass is not None:
        if len(settings.basic_auth_pass.get_secret_value()) < _MIN_PASSWORD:
            return Check(name, 'failed', f'BASIC_AUTH_PASS has fewer than {_MIN_PASSWORD} characters; set a longer one')
        return Check(name, 'ok', 'require BASIC_AUTH_USER and BASIC_AUTH_PASS')
    if settings.api_token is not None:
        return Check(name, 'ok', 'require API_TOKEN as password, with any user name')
    state: Literal['warning', 'failed'] = 'failed' if reachable else 'warning'
    return Check(name, state, '/predict and /webhook are open; set API_TOKEN, or BASIC_AUTH_USER and BASIC_AUTH_PASS')


def _origins(settings: Settings) -> Check:
    name = 'CORS_ORIGINS'
    if not settings.cors_origins:
        return Check(name, 'ok', 'the node refuses web pages of other origins')
    if '*' not in settings.cors_origins:
        return Check(name, 'ok', f'only web pages of {settings.cors_origins} may use the node')
    if settings.api_token is not None:
        return Check(
            name, 'warning', 'web pages of all origins may use the node with the token; list those that need it'
        )
    return Check(
        name,
        'failed',
        'every web page opened in this network can use the node; list origins, or set API_TOKEN',
    )


def _backdoor(settings: Settings) -> Check:
    name = 'USE_BACKDOOR_CONTROLS'
    if settings.use_backdoor_controls:
        return Check(name, 'failed', '`POST /reset` deletes DATA_FOLDER; unset it outside tests')
    return Check(name, 'ok', 'off')


def _image_hosts(settings: Settings) -> Check:
    name = 'IMAGE_HOSTS'
    if settings.image_hosts == 'none':
        return Check(name, 'ok', 'task images come from Label Studio only')
    if '*' in settings.image_hosts.split(','):
        detail = (
            'clients of /predict can make the node fetch from any internet host; list those with images, or set `none`'
        )
        return Check(name, 'warning', detail)
    return Check(name, 'ok', f'task images come from Label Studio and {settings.image_hosts}')


def _outgoing(name: str, setting: str, url: str | None, has_credentials: bool) -> Check:
    if url is None:
        return Check(name, 'skipped', f'{setting} is not set')
    address = httpx.URL(url)
    if address.scheme == 'https':
        return Check(name, 'ok', f'{address.host}: https')
    if _is_loopback(address.host):
        return Check(name, 'ok', f'{address.host}: http, on this machine')
    if has_credentials:
        detail = f'credentials go to {address.host} in plain http, readable on the way; use https:// in {setting}'
        return Check(name, 'failed', detail)
    return Check(name, 'warning', f'images go to {address.host} in plain http; use https:// in {setting}')


def _data_folder(folder: Path) -> Check:
    name = 'DATA_FOLDER'
    try:
        mode = folder.stat().st_mode
    except OSError:
        return Check(name, 'skipped', f'{folder} does not exist yet')
    remedy = f'chmod -R o-rwx {folder}'
    if mode & stat.S_IWOTH:
        return Check(name, 'failed', f'every user of this machine can replace models and images; {remedy}')
    if mode & stat.S_IROTH and mode & stat.S_IXOTH:
        return Check(name, 'warning', f'every user of this machine can read images of people in {folder}; {remedy}')
    return Check(name, 'ok', f'other users cannot read {folder}')


def _dotenv(file: Path) -> Check:
    try:
        mode = file.stat().st_mode
    except OSError:
        return Check('.env', 'skipped', f'{Path.cwd()} has no .env')
    remedy = f'chmod 600 {file.absolute()}'
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Check('.env', 'failed', f'other users can change it; {remedy}')
    found = sorted(secret_names() & {name for name, value in dotenv_values(file).items() if value})
    if mode & (stat.S_IRGRP | stat.S_IROTH) and found:
        return Check('.env', 'failed', f'other users can read {", ".join(found)} in it; {remedy}')
    return Check('.env', 'ok', f'other users can read no credentials in {file.absolute()}')


def _user() -> Check:
    if not hasattr(os, 'geteuid'):
        return Check('user', 'skipped', 'unknown on this system')
    if os.geteuid() == 0:
        return Check(
            'user',
            'warning',
            'root: a fault can affect the whole machine; run the node as another user, as the image does',
        )
    return Check('user', 'ok', 'not root')


def _log(settings: Settings) -> Check:
    if settings.effective_log_level == 'DEBUG':
        return Check(
            'log', 'warning', 'DEBUG: the log contains the addresses of all requests, without credentials; unset DEBUG'
        )
    return Check('log', 'ok', settings.effective_log_level)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host.lower() == 'localhost'
