"""From predictions and label events to outcomes: joined, late, missing or corrected labels."""
