"""What a batch means: its inputs and target, its samples, its loss."""
