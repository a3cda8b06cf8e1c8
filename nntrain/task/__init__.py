"""What a batch means: its inputs and its target, its samples, and its loss.

Invariant: a task knows no model but the one that it is given, and moves no tensor that it is not asked to.
"""
