"""GET /: a page to talk to the models, in plain HTML, CSS and JavaScript; it loads nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["OPEN", "routes"]

#: A folder next to this module, perhaps in an archive.
FOLDER = files(__package__) / "page"
KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Its address for each of its files.
PATHS = {"/" if file == "index.html" else f"/page/{file}": file for file in KINDS}
#: Paths that need no key: the page asks for one, and sends it with what it asks of the models.
OPEN = (*PATHS, "/favicon.ico")
#: What a browser lets the page do: use its own files and this server.
POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def routes() -> list[Route]:
    """The routes. Files are read when they are asked for: there are four, and small."""

    async def file(request: Request) -> Response:
        name = PATHS[request.url.path]
        return Response((FOLDER / name).read_bytes(), headers=POLICY, media_type=KINDS[name])

    async def icon(_: Request) -> Response:
        return RedirectResponse("/page/icon.svg", 308)

    return [*(Route(path, file) for path in PATHS), Route("/favicon.ico", icon)]
