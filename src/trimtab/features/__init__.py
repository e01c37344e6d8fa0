"""Features: views over events, requests and labels, computed offline for columns and online for single rows.

Both ways use the same definitions and give equal values, bit for bit.
"""

from trimtab.core.package import lazily

__getattr__, __dir__ = lazily(__name__, __file__)
