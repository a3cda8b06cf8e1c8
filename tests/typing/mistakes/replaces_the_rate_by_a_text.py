"""replace knows their types."""

from tests.typing.setting import learner

learner([]).replace(lr="0.1")  # E: Argument "lr" to "replace" of "Learner" has incompatible type "str"; expected "float | Callable[[int], float]"  [arg-type]


# At run time: importing this
# R: ConfigError: lr is '0.1'; expected a finite number of 0 or more, or a function of the step.
