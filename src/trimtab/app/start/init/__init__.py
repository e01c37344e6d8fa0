"""A new project from one data file: `trimtab init`."""
