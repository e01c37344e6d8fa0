"""HTML pages for people: the state of a project, and the quality of one model."""
