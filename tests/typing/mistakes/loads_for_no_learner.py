"""A state is loaded for a learner."""

from nntrain import TrainState
from nntrain.checkpoint import load


def wrong() -> TrainState:
    return load("state.safetensors")  # E: Missing positional argument "learner" in call to "load"  [call-arg]


# At run time: wrong()
# R: TypeError: load() missing 1 required positional argument: 'learner'
