"""A subscriber of dicts among those of tuples."""

from torch import Tensor

from nntrain import Subscriber
from tests.typing.setting import Batch


class Words(Subscriber[dict[str, Tensor]]):
    pass


subs: list[Subscriber[Batch]] = [Words()]  # E: List item 0 has incompatible type "Words"; expected "Subscriber[tuple[Tensor, Tensor], object]"  [list-item]
