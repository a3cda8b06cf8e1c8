"""epochs is a number."""

from tests.typing.setting import learner

learner([]).fit("3")  # E: Argument 1 to "fit" of "Learner" has incompatible type "str"; expected "int | None"  [arg-type]


# At run time: importing this
# R: ConfigError: epochs is '3'; expected a whole number of 0 or more.
