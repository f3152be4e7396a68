"""Hand results on: cards, Hub repositories, stores elsewhere."""
