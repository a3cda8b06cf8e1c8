"""The page's scripts: plotly.js, the data it draws, and the policy that lets nothing else run or be loaded."""

from __future__ import annotations

import base64
import hashlib
import json

from nntrain.log.extras import needed


def plotly_js() -> str:
    """Give plotly.js. Raises `MissingExtraError` where it is not installed."""
    code: object = needed("plotly.offline", extra="report", purpose="nntrain report").get_plotlyjs()
    if not isinstance(code, str):
        raise TypeError(f"plotly.offline.get_plotlyjs gave a {type(code).__name__}; expected its text.")
    return code.replace("\r\n", "\n")  # what a browser makes of it before it hashes it


def in_a_script(value: object) -> str:
    """Give JSON that ends no script element, whatever is in it. A number that is not finite is an error."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def policy(*scripts: str) -> str:
    """Give the policy that lets these scripts run and no other, and lets nothing be loaded."""
    hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    rules = ["default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
