"""What is written in place, and no value is seen to change: the one set of live tensors, and the engines that use it.

Invariant: before the live tensors are overwritten, whoever still holds the handle on their value has received a copy.
The `workspace` module argues it in four points. An engine says how a pass is run, never what it computes.
"""
