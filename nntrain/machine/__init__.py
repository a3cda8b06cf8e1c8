"""One table and one step: where a training can stand, what leads where, and the only way to get there.

Invariant: whatever is folded from `Machine.step` visits the same states, and a step that fails leaves the state before
it. A `TrainState` is made where somebody looks; between such looks a `Cursor` alone holds the tensors.
"""
