"""The login page. Browsers cannot send API_TOKEN as a header; a session's cookie stands for it."""

import html
from typing import Annotated, Final

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .middleware.access import SESSION_SECONDS, AccessPolicy, address_of

_DEFAULT_TARGET: Final = '/ui'
_HEADERS: Final = {
    'Cache-Control': 'no-store',
    'Content-Security-Policy': "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    'Referrer-Policy': 'same-origin',
}
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Whole-body pose node</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; color: #222; background: #f4f4f4; margin: 0;
       display: grid; place-items: center; min-height: 100vh; }}
form {{ background: #fff; padding: 1.5rem; border-radius: .5rem; width: min(22rem, calc(100vw - 5rem)); }}
h1 {{ font-size: 1.2rem; margin: 0 0 1rem; }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; margin-top: .5rem; }}
p {{ margin: .75rem 0 0; color: #b00020; }}
</style>
</head>
<body>
<form method="post" action="/login">
<h1>Whole-body pose node</h1>
<label for="token">API_TOKEN of this node</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<input name="next" type="hidden" value="{target}">
<button type="submit">Log in</button>
{fault}
</form>
</body>
</html>
"""


def create_router(access_policy: AccessPolicy) -> APIRouter:
    """Return the routes that log people in and out."""
    router = APIRouter(include_in_schema=False)

    @router.get('/login')
    async def login_page(request: Request, target: Annotated[str, Query(alias='next')] = _DEFAULT_TARGET) -> Response:
        """Ask for the token, or go on to the target if the request is allowed already."""
        if access_policy.allows(request):
            return RedirectResponse(_own(target), 303)
        return _page(target)

    @router.post('/login')
    async def login(
        request: Request,
        token: Annotated[str, Form()] = '',
        target: Annotated[str, Form(alias='next')] = _DEFAULT_TARGET,
    ) -> Response:
        """Open a session if the token is right."""
        if not access_policy.accepts_token(token.strip()):
            await access_policy.delay_failed_attempt(address_of(request))
            return _page(target, fault='<p>This is not the token.</p>', status=401)
        answer = RedirectResponse(_own(target), 303)
        if access_policy.has_token:
            answer.set_cookie(
                access_policy.cookie,
                access_policy.sessions.open(),
                max_age=SESSION_SECONDS,
                httponly=True,
                samesite='strict',
                secure='https' in (request.scope['scheme'], request.headers.get('x-forwarded-proto')),
            )
        return answer

    @router.post('/logout')
    async def logout(request: Request) -> Response:
        """End the session."""
        access_policy.sessions.close(request.cookies.get(access_policy.cookie, ''))
        answer = RedirectResponse('/login', 303)
        answer.delete_cookie(access_policy.cookie)
        return answer

    return router


def _page(target: str, *, fault: str = '', status: int = 200) -> HTMLResponse:
    page = _PAGE.format(target=html.escape(_own(target)), fault=fault)
    return HTMLResponse(page, status, headers=_HEADERS)


def _own(target: str) -> str:
    """Return the target if it is a path of this node, else the default: a link must not redirect to another site."""
    own = target.startswith('/') and not target.startswith(('//', '/\\')) and target.isprintable()
    return target if own else _DEFAULT_TARGET
