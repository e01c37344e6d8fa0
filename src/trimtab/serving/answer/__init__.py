"""Answers in process: checked request rows, model inputs, scores."""
