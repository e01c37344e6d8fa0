"""Quality of predictions: daily losses and calibration, alarms, slices, and arms (canary, shadow)."""
