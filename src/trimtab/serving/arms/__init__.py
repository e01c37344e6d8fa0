"""Champion, canary and shadow: several versions of a model behind one endpoint."""
