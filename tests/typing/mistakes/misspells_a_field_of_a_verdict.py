"""A record has no other fields than its own."""

from nntrain import CancelFit


def wrong() -> CancelFit:
    return CancelFit(reasons="enough")  # E: Unexpected keyword argument "reasons" for "CancelFit"; did you mean "reason"?  [call-arg]


# At run time: wrong()
# R: ValidationError: 1 validation error for CancelFit reasons Extra inputs are not permitted [type=extra_forbidden, input_value='enough', input_type=str] ...
