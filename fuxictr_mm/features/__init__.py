"""From raw modality vectors to the item table that loaders read; numpy and files only, no torch.

``pca`` reduces one modality, ``vectors`` reads its files, ``columns`` and ``derive`` make a column of ready-made and of
derived values, ``item_table`` keeps them all, and ``processor`` offers this as FuxiCTR's feature processor.
"""
