"""One table, one step: the places a training can stand at, and the only way from one to the next."""
