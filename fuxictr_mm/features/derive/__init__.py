"""Ways in which vectors become a block of an item column: one file each, found by the key of a column.

A new way is one file here, with a :class:`~fuxictr_mm.features.derive.derivation.Derivation` in it and a function that
:func:`~fuxictr_mm.features.derive.derivation.derives` registers for a key, and that key's line in ``COLUMN_KEYS``.
"""
