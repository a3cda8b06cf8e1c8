"""check_subscriber takes what makes subscribers."""

from nntrain import EarlyStopping
from nntrain.testing import check_subscriber

check_subscriber(EarlyStopping())  # E: No overload variant of "check_subscriber" matches argument type "EarlyStopping"  [call-overload]


# At run time: importing this
# R: ConfigError: make is <nntrain.subscribers.early_stopping.EarlyStopping object at ...>; expected what makes a new subscriber each time: a class, or a lambda: check_subscriber(lambda: EarlyStopping(patience=2)).
