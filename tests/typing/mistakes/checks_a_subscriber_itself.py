"""check_subscriber takes what makes subscribers."""

from nntrain import EarlyStopping
from nntrain.testing import check_subscriber

check_subscriber(EarlyStopping())  # E: No overload variant of "check_subscriber" matches argument type "EarlyStopping"  [call-overload]

# N: Possible overload variants:
# N:     def check_subscriber(make: Callable[[], Listening[tuple[Tensor, Tensor], object]], *, examples: int = ..., device: device | str = ...) -> None
# N:     def [Batch] check_subscriber(make: Callable[[], Listening[Batch, object]], *, learner: Callable[[Sequence[Listening[Batch, object]]], Learner[Batch, Any]], examples: int = ...) -> None
# At run time: importing this
# R: ConfigError: make is <nntrain.subscribers.early_stopping.EarlyStopping object at ...>; expected what makes a new subscriber each time: a class, or a lambda: check_subscriber(lambda: EarlyStopping(patience=2)).
