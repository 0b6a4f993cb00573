"""The files of the page at /amoeba: public, since they say nothing of the server."""

from pathlib import Path

FILES = Path(__file__).parent / "page"
ADDRESS = "/amoeba"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    # Nothing from elsewhere, and nobody shows the page within another one, whose clicks would be
    # ours.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' "
    "'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Those of a new release must not be missed.
    "cache-control": "no-cache",
}


def page_files() -> dict[str, Path]:
    """By path of the server, below which the page is the folder itself."""
    return {
        f"{ADDRESS}/{'' if file.name == 'index.html' else file.name}": file
        for file in sorted(FILES.iterdir())
        if file.suffix in TYPES
    }
