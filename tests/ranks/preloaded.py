"""What the server that test processes are forked from has imported already. It starts no thread.

A rank would else import them itself: `torch._dynamo` as it makes its first optimizer, a second of the processor, and
pytest with the module that its function is in.
"""

import hypothesis  # noqa: F401 - for the processes
import pytest  # noqa: F401 - same
import torch._dynamo  # noqa: F401 - same

import nntrain
import nntrain.checkpoint.planned
import nntrain.live.over_ranks
import nntrain.machine.learner  # noqa: F401 - same
