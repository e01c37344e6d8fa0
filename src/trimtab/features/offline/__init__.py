"""Features of many requests at once. They are computed from columns of events, without any stored state."""
