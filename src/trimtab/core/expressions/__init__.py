"""Expressions over the columns of one row, evaluated row by row or in columns."""
