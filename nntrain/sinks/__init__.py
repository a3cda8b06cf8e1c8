"""Who tells: sinks have effects, and cannot change the training.

Invariant: a sink is shown what the machine did after it was done, with the state after it and never the one before.
What it returns is not looked at, and its failure ends nothing unless it asks for that.
"""

from nntrain.sinks.interest import Interest
from nntrain.sinks.print_stats import PrintStats
from nntrain.sinks.profiler import Profiler
from nntrain.sinks.progress_bar import ProgressBar
from nntrain.sinks.throughput import ThroughputLog

__all__ = ["Interest", "PrintStats", "Profiler", "ProgressBar", "ThroughputLog"]
