"""What gradients become: the optimizer and its learning rate."""
