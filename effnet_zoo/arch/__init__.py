"""The declarations: families as tables, their notations, and the specifications they stand for. No torch."""
