"""replace knows the learner's arguments."""

from tests.typing.setting import learner

learner([]).replace(learning_rate=0.1)  # E: Unexpected keyword argument "learning_rate" for "replace" of "Learner"  [call-arg]

# N: "replace" defined in "nntrain.machine.learner"
# At run time: importing this
# R: ConfigError: A Learner has no learning_rate; it has capture, compile, device, dls, engine, loss_fn, lr, metric_fn, model, objectives, optim_class, sinks, subs, task, unpack, update, weigh.
