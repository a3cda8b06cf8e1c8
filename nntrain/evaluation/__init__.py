"""What a state is asked without being trained on from: its statistics, its predictions, the learning rate to take.

Invariant: the state and the learner go on as if nothing had been asked.
"""
