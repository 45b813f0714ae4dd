"""A page that stands alone: one file, with its data as JSON in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parc.report.html import esc, tag

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""For the browser: nothing is loaded from anywhere, whatever stands in the page."""


def document(title: str, body: list[str], data: Mapping[str, Any]) -> str:
    """The text of the page. body: its sections; data: what its script shows where the pointer is."""
    import parc

    head = [
        '<meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        '<meta name="color-scheme" content="light dark"/>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>',
        tag("title", esc(title)),
        f"<style>\n{(HERE / 'page.css').read_text(encoding='utf-8')}</style>",
    ]
    end = [
        tag("footer", tag("p", esc(f"parc {parc.__version__}. Nothing was run: times are the cost model's."))),
        tag("div", id="tip", hidden="hidden"),
        f'<script type="application/json" id="data">{_embedded(data)}</script>',
        f"<script>\n{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
    ]
    inside = f"<head>\n{_lines(head)}</head>\n<body>\n{_lines([*body, *end])}</body>"
    return f'<!DOCTYPE html>\n<html lang="en">\n{inside}\n</html>\n'


def _lines(parts: list[str]) -> str:
    return "".join(f"{p}\n" for p in parts if p)


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
