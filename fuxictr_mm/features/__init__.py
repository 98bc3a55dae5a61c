"""From raw vectors to the item table that loaders read: ids, and one stored array per column. Only ``processor`` knows
FuxiCTR, and nothing here imports torch.
"""
