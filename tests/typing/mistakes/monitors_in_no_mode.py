"""A closed set of words is a Literal."""

from nntrain import EarlyStopping

EarlyStopping(mode="smallest")  # E: Argument "mode" to "EarlyStopping" has incompatible type "Literal['smallest']"; expected "Literal['min', 'max']"  [arg-type]


# At run time: importing this
# R: ConfigError: mode is 'smallest'; expected 'min' (a loss) or 'max' (an accuracy).
