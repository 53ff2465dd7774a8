"""A report as tables, dumps of Jacobian products, files that are whole or not there."""
