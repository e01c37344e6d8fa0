"""Work with the versions of models: move aliases, import, compare, evaluate, search and remove versions."""
