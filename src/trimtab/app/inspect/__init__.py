"""Reports about a project: status, explanations, skew, quality, doctor."""
