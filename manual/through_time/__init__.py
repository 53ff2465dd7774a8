"""What makes a sequence of a step.

The time loop, layers and directions, truncation, recomputation, forward mode.
"""
