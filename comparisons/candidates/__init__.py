"""What is on trial: built-in cells, a user's cell, a user's function; the drawing of problems."""
