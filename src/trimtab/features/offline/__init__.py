"""Features of many requests at once, computed from columns and prefix sums, without stored state."""
