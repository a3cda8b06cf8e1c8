"""A list of one kind, where a list of any is written to. A Sequence would do."""

from nntrain import EarlyStopping, Subscriber
from tests.typing.setting import Batch


def wrong(mine: list[EarlyStopping]) -> list[Subscriber[Batch]]:
    return mine  # E: Incompatible return value type (got "list[EarlyStopping]", expected "list[Subscriber[tuple[Tensor, Tensor], object]]")  [return-value]

# N: "list" is invariant -- see https://mypy.readthedocs.io/en/stable/common_issues.html#variance
# N: Consider using "Sequence" instead, which is covariant
