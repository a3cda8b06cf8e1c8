"""What gradients become: a torch optimizer over named parameters, with its learning rate.

Invariant: what an optimizer remembers is read out and brought in as a value, and a step that fails says whether it had
written anything.
"""
