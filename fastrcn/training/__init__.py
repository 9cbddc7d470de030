"""Training, testing and use of the models on videos of one's own, in one process or many."""
