"""How several sets of rows become one: a survey, a choice under quotas, one seeded order, a card.

A survey keeps some tens of bytes per row and no text, so that 800,000 rows of any length fit.
"""
