"""What is on trial: built-in cells, a user's cell, a user's function; and the drawing of problems."""
