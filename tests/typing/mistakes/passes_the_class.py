"""The class in place of a subscriber."""

from nntrain import EarlyStopping
from tests.typing.setting import learner

learner([EarlyStopping])  # E: List item 0 has incompatible type "type[EarlyStopping]"; expected "Listening[tuple[Tensor, Tensor]]"  [list-item]


# At run time: importing this
# R: SubscriberError: subs has the class EarlyStopping; pass an instance: EarlyStopping().
