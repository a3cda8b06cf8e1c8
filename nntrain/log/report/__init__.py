"""Logs as one self-contained HTML page: curves, verdicts, configs and timings of runs side by side."""

from nntrain.log.report.document import page

__all__ = ["page"]
