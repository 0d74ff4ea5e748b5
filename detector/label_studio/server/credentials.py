"""The `Authorization` header for Label Studio: a legacy token, or access tokens of a personal access token."""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from detector.errors import InvalidSettings, LabelStudioFault

Exchange = Callable[[str], Awaitable[tuple[int, Any]]]
"""Sends a personal access token and returns HTTP status and JSON of the answer."""

_LIFETIME_SECONDS: Final = 300
"""Assumed lifetime in seconds of an access token that does not state one."""
_MARGIN: Final = 0.2
"""Share of its lifetime that an access token has left when it is renewed: one minute of five."""
_REFUSED_SECONDS: Final = 5
"""Pause in seconds after a refusal before Label Studio is asked again."""


class Credentials:
    """The credentials for a token of Label Studio.

    A JWT, which has two dots, is a personal access token. It is exchanged for short-lived access tokens; concurrent
    callers share one exchange. Any other token is a legacy token.

    :raises InvalidSettings: LABEL_STUDIO_API_TOKEN has characters that a header cannot hold.
    """

    def __init__(self, token: str | None, exchange: Exchange) -> None:
        self._token = (token or '').strip()
        if not (self._token.isascii() and self._token.isprintable() and ' ' not in self._token):
            raise InvalidSettings('LABEL_STUDIO_API_TOKEN: contains characters that no Label Studio token has')
        self._exchange = exchange
        self._lock = asyncio.Lock()
        self._access: str | None = None
        self._good_until = 0.0
        self._refusal: tuple[float, str] = (0.0, '')
        """Time until which the last refusal holds, and its message."""

    async def authorization(self, *, refused: str | None = None) -> str:
        """Return the value of the `Authorization` header.

        :param refused: the value that Label Studio has just refused with 401, if any.
        :raises LabelStudioFault: there is no valid token.
        """
        if not self._token:
            raise LabelStudioFault('Label Studio requires a token: set LABEL_STUDIO_API_TOKEN')
        if self._token.count('.') == 2:
            return await self._bearer(refused)
        if refused is not None:
            raise LabelStudioFault(
                'Label Studio refuses LABEL_STUDIO_API_TOKEN (401): it has legacy tokens switched off '
                '(Organization, Access Token Settings), or the token is wrong; use a personal access token '
                '(Account & Settings)'
            )
        return f'Token {self._token}'

    async def _bearer(self, refused: str | None) -> str:
        async with self._lock:
            if self._access is None or refused == self._access or time.monotonic() >= self._good_until:
                await self._renew()
            assert self._access is not None
            return self._access

    async def _renew(self) -> None:
        until, why = self._refusal
        if time.monotonic() < until:
            raise LabelStudioFault(why)
        asked = time.monotonic()
        self._access = None
        status, answer = await self._exchange(self._token)
        access = answer.get('access') if isinstance(answer, dict) else None
        if status != 200 or not isinstance(access, str) or not access.isascii() or not access.isprintable():
            why = _why_refused(status)
            self._refusal = (time.monotonic() + _REFUSED_SECONDS, why)
            raise LabelStudioFault(why)
        self._access = f'Bearer {access}'
        self._good_until = asked + (1 - _MARGIN) * _lifetime(access)


def _why_refused(status: int) -> str:
    if status in (400, 401, 403):
        return (
            f'Label Studio refuses LABEL_STUDIO_API_TOKEN, a personal access token ({status}): it was revoked, has '
            'expired or belongs to another Label Studio; create another (Account & Settings, Personal Access Token)'
        )
    if status == 404:
        return (
            'LABEL_STUDIO_URL does not support personal access tokens (404): is it the address of a recent '
            'Label Studio?'
        )
    return f'Label Studio gives no access token for LABEL_STUDIO_API_TOKEN ({status}): is LABEL_STUDIO_URL right?'


def _lifetime(access: str) -> float:
    """Return the lifetime in seconds that an access token claims, unverified and independent of the local clock."""
    try:
        payload = access.split('.')[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + '=' * (-len(payload) % 4)))
        seconds = float(claims['exp']) - float(claims.get('iat', time.time()))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        return _LIFETIME_SECONDS
    return seconds if 0 < seconds <= 24 * 3600 else _LIFETIME_SECONDS
