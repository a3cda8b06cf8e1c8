"""A subscriber in place of a list of them."""

from nntrain import EarlyStopping
from tests.typing.setting import learner

learner(EarlyStopping())  # E: Argument 1 to "learner" has incompatible type "EarlyStopping"; expected "Sequence[Listening[tuple[Tensor, Tensor], object]]"  [arg-type]


# At run time: importing this
# R: ConfigError: subs is <nntrain.subscribers.early_stopping.EarlyStopping object at ...>; expected a list, like subs=[...].
