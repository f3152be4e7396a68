"""The page: one HTML file with its style, script and data, which asks nothing of a network.

A content security policy names the digests of the page's own style and script, so that nothing
else runs, wherever it comes from.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from r1pipe.report.document import Report
from r1pipe.report.flow import counted
from r1pipe.report.flow_picture import BAR, picture_of
from r1pipe.report.graph import MAX_NAME, MAX_TOOK, NODE_HEIGHT, NODE_WIDTH, fitted
from r1pipe.report.scores import MAX_LABEL, label_width

LEAVES_BLOCK = re.compile("[<>&\u2028\u2029]")
"""Characters that could end the block of data."""


def render(report: Report, is_watched: bool = False) -> str:
    """Return the page; `is_watched` has it ask its server for a newer one."""
    style, script = _asset("report.css"), _asset("report.js")
    policy = {
        "default-src": "'none'",
        "style-src": f"'sha256-{_digest(style)}'",
        "script-src": f"'sha256-{_digest(script)}'",
        "connect-src": "'self'" if is_watched else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    environment = Environment(
        loader=PackageLoader("r1pipe.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        report=report,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=style,
        script=script,
        data=as_data(report.data()),
        node_width=NODE_WIDTH,
        node_height=NODE_HEIGHT,
        picture_of=picture_of,
        counted=counted,
        fitted=fitted,
        max_name=MAX_NAME,
        max_took=MAX_TOOK,
        label_width=label_width,
        max_label=MAX_LABEL,
        bar_width=BAR,
        is_watched=is_watched,
    )


def as_data(value: object) -> str:
    """Return JSON that no text in it can lead out of its block."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return LEAVES_BLOCK.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _asset(name: str) -> str:
    return files("r1pipe.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
