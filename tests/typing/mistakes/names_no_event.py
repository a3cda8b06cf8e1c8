"""@on: there is no such event."""

from nntrain import on

on("after_step")  # E: No overload variant of "on" matches argument type "str"  [call-overload]

# N: Possible overload variants:
# N:     def on(event: Literal['before_fit', 'after_fit'], *, order: int = ...) -> Callable[[Callable[[TrainState], TrainState | CancelFit]], Subscriber[object, object]]
# N:     def on(event: Literal['before_epoch', 'after_epoch'], *, order: int = ...) -> Callable[[Callable[[TrainState], TrainState | CancelEpoch | CancelFit]], Subscriber[object, object]]
# N:     def on(event: Literal['before_batch'], *, order: int = ...) -> Callable[[Callable[[TrainState, Batch], TrainState | CancelBatch | CancelEpoch | CancelFit]], Subscriber[Batch, object]]
# N:     def on(event: Literal['after_batch'], *, order: int = ...) -> Callable[[Callable[[TrainState, Batch, BatchOutput[Preds]], TrainState | CancelBatch | CancelEpoch | CancelFit]], Subscriber[Batch, Preds]]
# At run time: importing this
# R: SubscriberError: 'after_step' is no event; the events are before_fit, after_fit, before_epoch, after_epoch, before_batch, after_batch. Did you mean after_batch?
