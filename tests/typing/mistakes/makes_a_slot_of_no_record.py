"""A slot keeps a frozen pydantic model."""

from nntrain import Slot

WRONG = Slot("mistakes.wrong", int, default=0)  # E: Value of type variable "RecordT" of "Slot" cannot be "int"  [type-var]


# At run time: importing this
# R: ConfigError: Slot 'mistakes.wrong' needs a frozen pydantic model, so that no kept state can change: class int(BaseModel, frozen=True).
