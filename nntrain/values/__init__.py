"""What a training is: immutable records, and tensors behind handles. Two are equal when their bits are."""
