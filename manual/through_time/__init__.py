"""What makes a sequence of a step: the time loop, layers and directions, truncation, recomputation, forward mode."""
