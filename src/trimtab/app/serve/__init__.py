"""Run a project as a service (`trimtab serve`): worker processes, background tasks, and what the routes do."""
