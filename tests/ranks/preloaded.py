"""What the server that test processes are forked from has imported already. It starts no thread."""

import nntrain
import nntrain.checkpoint.planned
import nntrain.live.over_ranks
import nntrain.machine.learner  # noqa: F401 - same
