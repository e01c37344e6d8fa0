"""Views, requests and labels: one definition, evaluated offline in columns and online in rows, to the same bits."""
