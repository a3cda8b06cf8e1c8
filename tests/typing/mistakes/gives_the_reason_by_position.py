"""The fields of a record are named."""

from nntrain import CancelFit


def wrong() -> CancelFit:
    return CancelFit("enough")  # E: Too many positional arguments for "CancelFit"  [call-arg]


# At run time: wrong()
# R: TypeError: BaseModel.__init__() takes 1 positional argument but 2 were given
