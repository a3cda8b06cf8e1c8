"""The page's scripts: plotly.js, the data it draws, and the policy that forbids everything else."""

from __future__ import annotations

import base64
import hashlib
import json

from nntrain.errors import needed


def plotly_js() -> str:
    """Return the text of plotly.js. Raises `MissingExtraError` if plotly is not installed."""
    code: object = needed("plotly.offline", extra="report", purpose="nntrain report").get_plotlyjs()
    if not isinstance(code, str):
        raise TypeError(f"plotly.offline.get_plotlyjs gave a {type(code).__name__}; expected its text.")
    return code.replace("\r\n", "\n")  # as browsers do before they compute the hash


def script_json(value: object) -> str:
    """Return JSON text that can never end a script element. Raises `ValueError` for a number that is not finite."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def policy(*scripts: str) -> str:
    """Return the Content-Security-Policy that allows these scripts, and forbids others and any loading."""
    hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    rules = ["default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
