"""Alembic migrations of the catalogue, run by `trimtab.store.catalog_schema`; one file for each in `versions`."""
