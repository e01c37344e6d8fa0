"""Bootstrap intervals, paired and sequential tests, e-detectors."""
