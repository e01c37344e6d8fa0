"""From a model definition and a cut-off to a pinned training set, a fitted model and its evaluation."""
