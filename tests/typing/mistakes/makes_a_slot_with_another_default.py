"""The default is of the slot's record."""

from nntrain import Slot
from tests.typing.setting import Seen

WRONG = Slot("mistakes.wrong", Seen, default=0)  # E: Value of type variable "RecordT" of "Slot" cannot be "object"  [type-var]


# At run time: importing this
# R: ConfigError: Slot 'mistakes.wrong' has a default of int, expected Seen.
