"""Alembic migrations of the catalogue's tables, one file each in `versions`, run by `trimtab.store.catalog_schema`."""
