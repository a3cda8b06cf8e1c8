"""An event's fields have types."""

from tests.typing.setting import Mixup

Mixup(alpha="much")  # E: Argument "alpha" to "Mixup" has incompatible type "str"; expected "float"  [arg-type]


# At run time: importing this
# R: ValidationError: 1 validation error for Mixup alpha Input should be a valid number, unable to parse string as a number [type=float_parsing, input_value='much', input_type=str] ...
