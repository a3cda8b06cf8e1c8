"""What tells: the sinks that come with nntrain."""

from nntrain.sinks.print_stats import PrintStats

__all__ = ["PrintStats"]
