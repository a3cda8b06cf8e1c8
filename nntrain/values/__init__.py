"""What a training is, as immutable records, with its tensors behind a handle; two are equal when their bits are.

Invariant: what a value is never changes. Records are frozen and hold frozen things; a `Tensors` handle shows one value
for its whole life, whoever holds the memory behind it; every tensor handed out is a copy, or lent to be read. Nothing
here knows of steps, files or terminals.
"""
