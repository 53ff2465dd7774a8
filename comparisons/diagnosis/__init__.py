"""What mistake a wrong gradient is."""
