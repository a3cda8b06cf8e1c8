"""What is written in place, such that no value is seen to change: the one set of live tensors, and the engines."""
