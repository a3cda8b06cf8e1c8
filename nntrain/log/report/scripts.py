"""The page's scripts: uPlot, which draws; the data that it draws; and the policy that forbids everything else."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files


def resource(name: str) -> str:
    """Return the text of a file of this package."""
    text = files("nntrain.log.report").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # as browsers do before they compute the hash of a script


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
