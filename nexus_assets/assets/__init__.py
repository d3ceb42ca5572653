"""The asset graph, one file per stage. `definitions.py` loads every asset of this package.

What belongs here: thin shells: read, one transform, write, metadata. Arithmetic is in transforms/, SQL in
market_store.py, judging stored data in checks.py.
"""
