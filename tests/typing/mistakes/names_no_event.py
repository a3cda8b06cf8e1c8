"""@on: there is no such event."""

from nntrain import on

on("after_step")  # E: No overload variant of "on" matches argument type "str"  [call-overload]


# At run time: importing this
# R: SubscriberError: 'after_step' is no event; the events are before_fit, after_fit, before_epoch, after_epoch, before_batch, after_batch.
