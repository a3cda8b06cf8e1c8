"""Who trains together: the ranks of a world, what they agree on, and what is summed over them.

Invariant: whatever is decided here is decided alike on every rank. A collective is called by all ranks at the same
place of the training or by none; a rank that fails says so where the others look, and all end with its error.
"""
