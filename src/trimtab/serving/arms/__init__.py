"""Arms of a deployment: champion, canary and shadow behind one endpoint."""
